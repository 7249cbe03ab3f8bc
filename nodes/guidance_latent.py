"""Guidance nodes: methods that are made for latent models (SD, SDXL, SD3, Flux ...)."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.psld import PSLD
from ..guidance.resample import ReSample
from ..guidance.stsl import STSL
from .guidance import chain, schema, seed_input, strength_input


class PSLDNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorPSLD", "PSLD (Latent Models)",
            "DPS for latent models, with a second pull towards pictures that the VAE can tell apart: fewer blotches than "
            "DPS. For linear damage; connect the model's VAE.",
            io.Float.Input(
                "strength", default=10.0, min=0.0, max=1000.0, step=0.1,
                tooltip="Pull towards the measurement, no unit. The paper's 1 is for 1000 steps: with n steps start with "
                "300 / n. Too large shows as grain or colour.",
            ),
            io.Float.Input(
                "gluing", default=1.0, min=0.0, max=1000.0, step=0.1,
                tooltip="Pull towards latents that stand for their own picture, no unit. A tenth of the strength is the "
                "paper's; 0 is DPS. Start with 1.",
            ),
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, strength, gluing, guidance=None, vae=None) -> io.NodeOutput:
        return chain(lambda: PSLD(measurement, strength, gluing), guidance, vae)


class ReSampleNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorReSample", "ReSample (Latent Models, Exact Fit)",
            "Now and then the picture is fitted to the measurement by an optimiser, and sampling goes on around it. Any "
            "damage; for the Guided DDIM Sampler with amount 0. Connect the model's VAE.",
            io.Int.Input(
                "every", default=5, min=1, max=100,
                tooltip="Fit in each n-th step of the last two thirds. Start with a tenth of the steps.",
            ),
            io.Float.Input(
                "gamma", default=40.0, min=0.01, max=10000.0, step=0.1,
                tooltip="How much of the state is drawn anew after a fit (no unit): larger follows the fit, smaller the "
                "model. Start with 40.",
            ),
            io.Int.Input(
                "iterations", default=50, min=1, max=2000,
                tooltip="Most steps of the optimiser, each a pass through the VAE and back. It stops earlier once the "
                "noise level is reached. Start with 50; the paper has 500.",
            ),
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, every, gamma, iterations, guidance=None, vae=None) -> io.NodeOutput:
        return chain(lambda: ReSample(measurement, every, gamma, iterations), guidance, vae)


class STSLNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorSTSL", "STSL (Second-Order DPS)",
            "DPS that also seeks states in which the model is sure of the picture. Any damage, latent and pixel models. "
            "Costs two model calls and two backward passes in each step.",
            strength_input(),
            io.Float.Input(
                "sureness", default=0.02, min=0.0, max=10.0, step=0.001,
                tooltip="Pull towards states in which the model is sure (gamma, no unit). Larger is smoother; 0 is DPS. Start "
                "with 0.02.",
            ),
            seed_input(2**53, "the random directions in which the model is asked how sure it is"),
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, strength, sureness, seed, guidance=None, vae=None) -> io.NodeOutput:
        return chain(lambda: STSL(measurement, strength, sureness, seed), guidance, vae)


NODES = [PSLDNode, ReSampleNode, STSLNode]
