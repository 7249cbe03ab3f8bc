"""Guidance nodes: methods that are made for latent models (SD, SDXL, SD3, Flux ...)."""

from __future__ import annotations

from ..guidance.psld import PSLD
from ..guidance.resample import ReSample
from ..guidance.stsl import STSL
from ..guidance.treg import TReg
from .guidance import STRENGTH
from .schema import GuidanceNode, Setting


class PSLDNode(GuidanceNode):
    METHOD = PSLD
    HEAD = (
        "PosteriorPSLD", "PSLD (Latent Models)",
        "DPS for latent models, with a second pull towards pictures that the VAE can tell apart: fewer blotches than "
        "DPS. For linear damage; connect the model's VAE.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "omega", id="strength", start=10.0, least=0.0, most=1000.0, step=0.1,
            tooltip="Pull towards the measurement, no unit. The paper's 1 is for 1000 steps: with n steps start with "
            "300 / n. Too large shows as grain or colour.",
        ),
        Setting(
            "gamma", id="gluing", start=1.0, least=0.0, most=1000.0, step=0.1,
            tooltip="Pull towards latents that stand for their own picture, no unit. A tenth of the strength is the "
            "paper's; 0 is DPS. Start with 1.",
        ),
    )  # fmt: skip


class ReSampleNode(GuidanceNode):
    METHOD = ReSample
    HEAD = (
        "PosteriorReSample", "ReSample (Latent Models, Exact Fit)",
        "Now and then the picture is fitted to the measurement by an optimiser, and sampling goes on around it. Any "
        "damage; for the Guided DDIM Sampler with amount 0. Connect the model's VAE.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "every", start=5, least=1, most=100,
            tooltip="Fit in each n-th step of the last two thirds. Start with a tenth of the steps.",
        ),
        Setting(
            "gamma", least=0.01, most=10000.0, step=0.1,
            tooltip="How much of the state is drawn anew after a fit (no unit): larger follows the fit, smaller the "
            "model. Start with 40.",
        ),
        Setting(
            "iterations", least=1, most=2000,
            tooltip="Most steps of the optimiser, each a pass through the VAE and back. It stops earlier once the "
            "noise level is reached. Start with 50; the paper has 500.",
        ),
    )  # fmt: skip


class STSLNode(GuidanceNode):
    METHOD = STSL
    HEAD = (
        "PosteriorSTSL", "STSL (Second-Order DPS)",
        "DPS that also seeks states in which the model is sure of the picture. Any damage, latent and pixel models. "
        "Costs two model calls and two backward passes in each step.",
    )  # fmt: skip
    SETTINGS = (
        STRENGTH,
        Setting(
            "gamma", id="sureness", least=0.0, most=10.0, step=0.001,
            tooltip="Pull towards states in which the model is sure (gamma, no unit). Larger is smoother; 0 is DPS. Start "
            "with 0.02.",
        ),
        Setting(
            "seed", least=0, most=2**53, fixed=True,
            tooltip="Chooses the random directions in which the model is asked how sure it is. Start with 0.",
        ),
    )  # fmt: skip


class TRegNode(GuidanceNode):
    METHOD = TReg
    HEAD = (
        "PosteriorTReg", "TReg (Text as Regulariser)",
        "The prompt says what the picture shows, and every n-th step its details are made to agree with what was seen. For "
        "strong linear damage, latent models with a prompt and a CFG of about 5, the Guided DDIM Sampler with amount 0.",
    )  # fmt: skip
    SETTINGS = (
        Setting("every", "Correct in each n-th step, from 0.15 of the sampling on. Start with 3.", 1, 100),
        Setting(
            "trust", least=0.00001, most=100.0, step=0.0001, fine=True,
            tooltip="How much the model's picture weighs against the measurement (no unit): more for noisy ones. Start "
            "with 0.0001.",
        ),
    )  # fmt: skip


NODES = [PSLDNode, ReSampleNode, STSLNode, TRegNode]
