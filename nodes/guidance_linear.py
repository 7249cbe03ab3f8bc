"""Guidance nodes for linear damage: masks, blur, upscaling, missing data."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.ddnm import DDNM
from ..guidance.ddrm import DDRM
from ..guidance.dds import DDS
from ..guidance.diffpir import PHOTOS, DiffPIR
from ..guidance.mmps import MMPS
from ..guidance.pigdm import PiGDM, PiGDMPublished
from ..guidance.projection import NoisedProjection
from ..guidance.score_ald import ScoreALD, ScoreALDNormalised
from ..guidance.snips import SNIPS
from ..guidance.tmpd import TMPD
from .guidance import chain, deviation_input, jacobian_input, schema


def correction_input() -> io.Combo.Input:
    return io.Combo.Input(
        "correction", options=["smooth", "pseudo-inverse"], default="smooth", optional=True,
        tooltip="How the model's picture is put right around holes and lost pixels. smooth: the correction goes on into what "
        "was not seen, so that a hole meets its rim. pseudo-inverse: only where something was seen, as in the papers. "
        "Other damage is treated alike by both. Start with smooth.",
    )  # fmt: skip


class DDNMNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorDDNM", "DDNM (Keeps What Was Seen)",
            "Null-space guidance: what was measured is kept, the model fills in the rest. Fast, nothing to tune. For "
            "masks, blur, upscaling and other linear damage.",
            later=(correction_input(),),
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, guidance=None, vae=None, correction="smooth") -> io.NodeOutput:
        return chain(lambda: DDNM(measurement, correction == "smooth"), guidance, vae)


class DiffPIRNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorDiffPIR", "DiffPIR (Noisy Measurements)",
            "Weighs the model's picture against the measurement by their noise levels. Fast and steady, for linear "
            "damage with noise.",
            io.Float.Input(
                "trust", default=1.0, min=0.01, max=100.0, step=0.01,
                tooltip="How much the model counts against the measurement (the paper's lambda, no unit): larger is "
                "smoother, smaller follows the measurement and its noise. Start with 1.",
            ),
            later=(
                io.Float.Input(
                    "deviation", default=PHOTOS, min=0.01, max=1000.0, step=0.01, optional=True,
                    tooltip="How much pictures vary: their standard deviation in the model's unit (-1 to 1 for pixel "
                    "models). Smaller keeps the noise out of what the measurement hardly shows; 1000 is the paper's "
                    "formula. Start with 0.5.",
                ),
                correction_input(),
            ),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, measurement, trust, guidance=None, vae=None, deviation=PHOTOS, correction="smooth"
    ) -> io.NodeOutput:
        return chain(lambda: DiffPIR(measurement, trust, deviation, correction == "smooth"), guidance, vae)


class PiGDMNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorPiGDM", "Pi-GDM (Pseudo-Inverse)",
            "Pseudo-inverse guidance: knows how uncertain the model is at each step, so it needs few steps. For linear "
            "damage, clean or noisy, and for JPEG.",
            io.Combo.Input(
                "form", options=["published", "denoiser"], default="published",
                tooltip="published: with the paper's weight, steady. denoiser: the formula itself, for studies and for the "
                "host's samplers. Start with published.",
            ),
            deviation_input(),
            jacobian_input(),
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, form, deviation, jacobian, guidance=None, vae=None) -> io.NodeOutput:
        method = PiGDMPublished if form == "published" else PiGDM
        return chain(lambda: method(measurement, deviation, jacobian == "exact"), guidance, vae)


class MomentMatchingNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorMomentMatching", "Moment Matching (MMPS, TMPD)",
            "Asks the model how uncertain it is, and in which directions: the most faithful of the formulas, and the "
            "slowest. For linear damage.",
            io.Combo.Input(
                "covariance", options=["full", "diagonal"], default="full",
                tooltip="full: MMPS, exact for Gaussians. diagonal: TMPD, a rough form at the price of two backward "
                "passes. Start with full.",
            ),
            io.Int.Input(
                "iterations", default=3, min=1, max=100,
                tooltip="Solver steps of the full form, each one backward pass through the model. Start with 3.",
            ),
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, covariance, iterations, guidance=None, vae=None) -> io.NodeOutput:
        return chain(
            lambda: MMPS(measurement, iterations) if covariance == "full" else TMPD(measurement), guidance, vae
        )


class DDRMNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorDDRM", "DDRM (Singular Directions)",
            "Treats every measured direction by its own noise. Fast and good with about 20 steps. For masks, blur and "
            "other damage with known singular values, in the Guided DDIM Sampler, whose own noise setting it ignores.",
            io.Float.Input(
                "eta", default=0.85, min=0.0, max=1.0, step=0.01,
                tooltip="Fresh noise in what was not seen, 0 none to 1 all. Start with 0.85.",
            ),
            io.Float.Input(
                "eta_b", default=1.0, min=0.0, max=1.0, step=0.01,
                tooltip="Trust in what was seen, 0 none to 1 full. Start with 1.",
            ),
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, eta, eta_b, guidance=None, vae=None) -> io.NodeOutput:
        return chain(lambda: DDRM(measurement, eta, eta_b), guidance, vae)


class SNIPSNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorSNIPS", "SNIPS (Correlated Noise)",
            "Blends seen and imagined in every singular direction, by their noise levels. Nothing to tune. For masks, "
            "blur and other damage with known singular values.",
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, guidance=None, vae=None) -> io.NodeOutput:
        return chain(lambda: SNIPS(measurement), guidance, vae)


class DDSNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorDDS", "DDS (Conjugate Gradients)",
            "Improves the model's picture by a few solver steps towards the measurement. For linear damage without a "
            "simple inverse, such as tomography or stacked measurements.",
            io.Int.Input("iterations", default=5, min=1, max=100, tooltip="Solver steps. Start with 5."),
            io.Float.Input(
                "gamma", default=20.0, min=0.01, max=1000.0, step=0.1,
                tooltip="Weight of the measurement against the model's picture where there is noise (no unit). Start "
                "with 20; the paper's 5 is softer.",
            ),
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, iterations, gamma, guidance=None, vae=None) -> io.NodeOutput:
        return chain(lambda: DDS(measurement, iterations, gamma), guidance, vae)


class NoisedProjectionNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorNoisedProjection", "Noised Projection (Score-SDE, ILVR)",
            "After every step, puts in what was seen with as much noise as the picture has: the classic way to "
            "inpaint. With a downscaling, and an early end, it keeps a reference's broad forms only.",
            io.Float.Input(
                "weight", default=1.0, min=0.0, max=1.0, step=0.01,
                tooltip="1 replaces what was seen, less blends (no unit). Start with 1, less for noisy measurements.",
            ),
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, weight, guidance=None, vae=None) -> io.NodeOutput:
        return chain(lambda: NoisedProjection(measurement, weight), guidance, vae)


class ScoreALDNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorScoreALD", "Score-ALD (Noisy State)",
            "Compares the noisy picture itself with the measurement: the first of these methods, made for many small "
            "Langevin steps. For linear damage.",
            io.Combo.Input(
                "form", options=["sigma", "constant", "normalised"], default="sigma",
                tooltip="How strongly it pulls. sigma: by the noise of the step. constant: by a fixed noise. "
                "normalised: as long as the model's own step. Start with sigma.",
            ),
            io.Float.Input(
                "amount", default=1.0, min=0.0, max=100.0, step=0.05,
                tooltip="sigma: gamma in units of the step's noise, 1 or more. constant: gamma as a noise level, 0 to "
                "1 is black to white. normalised: length in units of the model's step. Start with 1.",
            ),
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, form, amount, guidance=None, vae=None) -> io.NodeOutput:
        if form == "normalised":
            return chain(lambda: ScoreALDNormalised(measurement, amount), guidance, vae)
        return chain(lambda: ScoreALD(measurement, amount, form), guidance, vae)


NODES = [
    DDNMNode, DiffPIRNode, PiGDMNode, MomentMatchingNode, DDRMNode, SNIPSNode, DDSNode, NoisedProjectionNode,
    ScoreALDNode,
]  # fmt: skip
