"""Guidance nodes for linear damage: masks, blur, upscaling, missing data."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.ddnm import DDNM
from ..guidance.ddpg import DDPG
from ..guidance.ddrm import DDRM
from ..guidance.dds import DDS
from ..guidance.diffpir import PHOTOS, DiffPIR
from ..guidance.mmps import MMPS
from ..guidance.pigdm import PiGDM, PiGDMPublished
from ..guidance.projection import NoisedProjection
from ..guidance.score_ald import ScoreALD, ScoreALDNormalised
from ..guidance.snips import SNIPS
from ..guidance.tmpd import TMPD
from .guidance import DEVIATION, JACOBIAN
from .schema import GuidanceNode, Setting, guidance_schema

CORRECTION = Setting(
    "smooth", id="correction", words=("smooth", "pseudo-inverse"), start=True, later=True,
    tooltip="How the model's picture is put right around holes and lost pixels. smooth: the correction goes on into what "
    "was not seen, so that a hole meets its rim. pseudo-inverse: only where something was seen, as in the papers. "
    "Other damage is treated alike by both. Start with smooth.",
)  # fmt: skip

ANSWER = Setting(
    "draw", id="answer", words=("draw", "mean"), later=True,
    tooltip="mean: the likeliest picture. draw: one at random of those that are as likely as they should be, for samples "
    "with a more faithful spread (FLOWER); needs a sampler with fresh noise. Start with mean.",
)  # fmt: skip


class DDNMNode(GuidanceNode):
    METHOD = DDNM
    HEAD = (
        "PosteriorDDNM", "DDNM (Keeps What Was Seen)",
        "Null-space guidance: what was measured is kept, the model fills in the rest. Fast, nothing to tune. For "
        "masks, blur, upscaling and other linear damage.",
    )  # fmt: skip
    SETTINGS = (CORRECTION,)

    @classmethod
    def make(cls, measurement, correction="smooth"):
        return DDNM(measurement, CORRECTION.value(correction))


class DiffPIRNode(GuidanceNode):
    METHOD = DiffPIR
    HEAD = (
        "PosteriorDiffPIR", "DiffPIR (Noisy Measurements)",
        "Weighs the model's picture against the measurement by their noise levels. Fast and steady, for linear "
        "damage with noise.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "trust", least=0.01, most=100.0, step=0.01,
            tooltip="How much the model counts against the measurement (the paper's lambda, no unit): larger is "
            "smoother, smaller follows the measurement and its noise. Start with 1.",
        ),
        Setting(
            "deviation", start=PHOTOS, least=0.01, most=1000.0, step=0.01, later=True,
            tooltip="How much pictures vary: their standard deviation in the model's unit (-1 to 1 for pixel "
            "models). Smaller keeps the noise out of what the measurement hardly shows; 1000 is the paper's "
            "formula. Start with 0.5.",
        ),
        CORRECTION,
        ANSWER,
    )  # fmt: skip

    @classmethod
    def make(cls, measurement, trust, deviation=PHOTOS, correction="smooth", answer="mean"):
        return DiffPIR(measurement, trust, deviation, CORRECTION.value(correction), ANSWER.value(answer))


class PiGDMNode(GuidanceNode):
    METHOD = PiGDM
    HEAD = (
        "PosteriorPiGDM", "Pi-GDM (Pseudo-Inverse)",
        "Pseudo-inverse guidance: knows how uncertain the model is at each step, so it needs few steps. For linear "
        "damage, clean or noisy, and for JPEG.",
    )  # fmt: skip
    SETTINGS = (DEVIATION, JACOBIAN)

    @classmethod
    def define_schema(cls) -> io.Schema:
        form = io.Combo.Input(
            "form", options=["published", "denoiser"], default="published",
            tooltip="published: with the paper's weight, steady. denoiser: the formula itself, for studies and for the "
            "host's samplers. Start with published.",
        )  # fmt: skip
        return guidance_schema(*cls.HEAD, form, *cls.inputs())

    @classmethod
    def make(cls, measurement, form, **given):
        return (PiGDMPublished if form == "published" else PiGDM)(measurement, **cls.settings(given))


class MomentMatchingNode(GuidanceNode):
    METHOD = MMPS
    HEAD = (
        "PosteriorMomentMatching", "Moment Matching (MMPS, TMPD)",
        "Asks the model how uncertain it is, and in which directions: the most faithful of the formulas, and the "
        "slowest. For linear damage.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "iterations", "Solver steps of the full form, each one backward pass through the model. Start with 3.", 1, 100,
        ),
    )  # fmt: skip

    @classmethod
    def define_schema(cls) -> io.Schema:
        covariance = io.Combo.Input(
            "covariance", options=["full", "diagonal"], default="full",
            tooltip="full: MMPS, exact for Gaussians. diagonal: TMPD, a rough form at the price of two backward "
            "passes. Start with full.",
        )  # fmt: skip
        return guidance_schema(*cls.HEAD, covariance, *cls.inputs())

    @classmethod
    def make(cls, measurement, covariance, iterations):
        return MMPS(measurement, iterations) if covariance == "full" else TMPD(measurement)


class DDRMNode(GuidanceNode):
    METHOD = DDRM
    HEAD = (
        "PosteriorDDRM", "DDRM (Singular Directions)",
        "Treats every measured direction by its own noise. Fast and good with about 20 steps. For masks, blur and "
        "other damage with known singular values, in the Guided DDIM Sampler, whose own noise setting it ignores.",
    )  # fmt: skip
    SETTINGS = (
        Setting("eta", "Fresh noise in what was not seen, 0 none to 1 all. Start with 0.85.", 0.0, 1.0, 0.01),
        Setting("eta_b", "Trust in what was seen, 0 none to 1 full. Start with 1.", 0.0, 1.0, 0.01),
    )


class DDPGNode(GuidanceNode):
    METHOD = DDPG
    HEAD = (
        "PosteriorDDPG", "DDPG (Preconditioned Guidance)",
        "Undoes the damage outright at first and follows the measurement gently at last, so that its noise is not "
        "enlarged. Fast, for linear damage; with the noise rule zeta in the Guided DDIM Sampler.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "gamma", least=0.1, most=100.0, step=0.1,
            tooltip="When it turns from the one to the other: larger is later (no unit). Start with 8.",
        ),
        Setting(
            "eta", least=0.0, most=100.0, step=0.05,
            tooltip="How gently the damage is undone, in units of the noise's variance. Start with 0.2.",
        ),
        Setting("step", "How far it goes: 1 is the whole way (no unit). Start with 1.", 0.0, 2.0, 0.05),
    )  # fmt: skip


class SNIPSNode(GuidanceNode):
    METHOD = SNIPS
    HEAD = (
        "PosteriorSNIPS", "SNIPS (Correlated Noise)",
        "Blends seen and imagined in every singular direction, by their noise levels. Nothing to tune. For masks, "
        "blur and other damage with known singular values.",
    )  # fmt: skip


class DDSNode(GuidanceNode):
    METHOD = DDS
    HEAD = (
        "PosteriorDDS", "DDS (Conjugate Gradients)",
        "Improves the model's picture by a few solver steps towards the measurement. For linear damage without a "
        "simple inverse, such as tomography or stacked measurements.",
    )  # fmt: skip
    SETTINGS = (
        Setting("iterations", "Solver steps. Start with 5.", 1, 100),
        Setting(
            "gamma", start=20.0, least=0.01, most=1000.0, step=0.1,
            tooltip="Weight of the measurement against the model's picture where there is noise (no unit). Start "
            "with 20; the paper's 5 is softer.",
        ),
    )  # fmt: skip


class NoisedProjectionNode(GuidanceNode):
    METHOD = NoisedProjection
    HEAD = (
        "PosteriorNoisedProjection", "Noised Projection (Score-SDE, ILVR)",
        "After every step, puts in what was seen with as much noise as the picture has: the classic way to "
        "inpaint. With a downscaling, and an early end, it keeps a reference's broad forms only.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "weight", least=0.0, most=1.0, step=0.01,
            tooltip="1 replaces what was seen, less blends (no unit). Start with 1, less for noisy measurements.",
        ),
    )  # fmt: skip


class ScoreALDNode(GuidanceNode):
    METHOD = ScoreALD
    HEAD = (
        "PosteriorScoreALD", "Score-ALD (Noisy State)",
        "Compares the noisy picture itself with the measurement: the first of these methods, made for many small "
        "Langevin steps. For linear damage.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "gamma", id="amount", least=0.0, most=100.0, step=0.05,
            tooltip="sigma: gamma in units of the step's noise, 1 or more. constant: gamma as a noise level, 0 to "
            "1 is black to white. normalised: length in units of the model's step. Start with 1.",
        ),
    )  # fmt: skip

    @classmethod
    def define_schema(cls) -> io.Schema:
        form = io.Combo.Input(
            "form", options=["sigma", "constant", "normalised"], default="sigma",
            tooltip="How strongly it pulls. sigma: by the noise of the step. constant: by a fixed noise. "
            "normalised: as long as the model's own step. Start with sigma.",
        )  # fmt: skip
        return guidance_schema(*cls.HEAD, form, *cls.inputs())

    @classmethod
    def make(cls, measurement, form, amount):
        if form == "normalised":
            return ScoreALDNormalised(measurement, amount)
        return ScoreALD(measurement, amount, form)


NODES = [
    DDNMNode, DiffPIRNode, PiGDMNode, MomentMatchingNode, DDRMNode, SNIPSNode, DDSNode, NoisedProjectionNode,
    ScoreALDNode, DDPGNode,
]  # fmt: skip
