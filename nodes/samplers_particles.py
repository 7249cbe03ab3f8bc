"""Sampler nodes: particle filters, whose law tends to the posterior of the model's own steps as particles are added."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..host.record import RunRecord
from ..host.sampler import GuidedSampler
from ..samplers.ddsmc import DDSMC
from ..samplers.fps import FPS
from ..samplers.matched import MatchedTDS
from ..samplers.mcgdiff import MCGDiff
from ..samplers.smcdiff import SMCDiff
from ..samplers.tds import TDS
from .schema import MeasuredSamplerNode, SamplerNode, Setting
from .sockets import Convergence

COUNT = Setting(
    "count", id="particles", least=1, most=10000,
    tooltip="Pictures that are tried for each sample, each at the cost of a model call a step. Start with 16.",
)  # fmt: skip
THRESHOLD = Setting(
    "threshold", least=0.0, most=1.0, step=0.05,
    tooltip="Share of effective particles below which the bad ones are replaced by copies of good ones (no unit): 1 in "
    "each step, 0 never. Start with 0.5.",
)  # fmt: skip
SPLIT = Setting("split", "Parts that each step is cut into, at so many times the model calls. Start with 1.", 1, 100)
BATCH = Setting(
    "batch", "Pictures in one model call; halved by itself where memory is short. Start with 16.", 1, 4096
)  # fmt: skip
COMMON = (COUNT, THRESHOLD, SPLIT, BATCH)
DEVIATION = Setting(
    "deviation", least=0.01, most=1000.0, step=0.01,
    tooltip="Standard deviation of the model's pictures, in its unit: pictures in [-1, 1] and latents have about 1. More "
    "lets particles decide later. Start with 1.",
)  # fmt: skip


class TDSNode(SamplerNode):
    METHOD = TDS
    HEAD = (
        "PosteriorTDS", "TDS (Twisted Particle Sampler)",
        "Many guided pictures at once, weighed by what their guidance got wrong: with enough of them, samples whose "
        "spread can be trusted, from any guidance.",
    )  # fmt: skip
    SETTINGS = (*COMMON, DEVIATION)

    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = super().define_schema()
        schema.outputs.append(
            Convergence.Output("record", display_name="record", tooltip="What the sampler notes: for Convergence Plot.")
        )
        return schema

    @classmethod
    def execute(cls, guidance=None, **given: Any) -> io.NodeOutput:
        trace = RunRecord()
        guides = tuple(replace(guide, trace=trace) for guide in guidance or ())
        return io.NodeOutput(GuidedSampler(guides, cls.make(**given)), trace)


class MatchedTDSNode(MeasuredSamplerNode):
    METHOD = MatchedTDS
    HEAD = (
        "PosteriorMatchedTDS", "TDS with Matched Moments",
        "Particles for measurements of a few numbers (compressed sensing of small pictures, studies): the most exact "
        "sampler here, at one backward pass for each measured number.",
    )  # fmt: skip
    SETTINGS = COMMON


class MCGDiffNode(MeasuredSamplerNode):
    METHOD = MCGDiff
    HEAD = (
        "PosteriorMCGDiff", "MCGDiff (Particle Sampler)",
        "Particles that pass by what was measured at the noise level where the model is as unsure as the measurement, "
        "and go on freely from there. No gradient. For linear damage with singular values.",
    )  # fmt: skip
    SETTINGS = (
        *COMMON,
        Setting(
            "kappa", least=1e-8, most=1.0, step=1e-4, fine=True,
            tooltip="How narrowly particles are held to the measurement (share of the variance, no unit). Start with "
            "0.0001.",
        ),
    )  # fmt: skip


class DDSMCNode(MeasuredSamplerNode):
    METHOD = DDSMC
    HEAD = (
        "PosteriorDDSMC", "DDSMC (Particle Sampler)",
        "Particles that draw the whole picture from prediction and measurement in each step and add noise again. No "
        "gradient. For linear damage with singular values.",
    )  # fmt: skip
    SETTINGS = (
        *COMMON,
        Setting(
            "eta", least=0.0, most=1.0, step=0.05,
            tooltip="0 takes all noise of a step anew, 1 keeps the model's own steps, which is exact (no unit). Start "
            "with 1; the paper has 0.5.",
        ),
        DEVIATION,
    )  # fmt: skip


class SMCDiffNode(MeasuredSamplerNode):
    METHOD = SMCDiff
    HEAD = (
        "PosteriorSMCDiff", "SMCDiff (Particle Sampler)",
        "Particles along one noisy path of the known pixels, kept by how well they foresee it. For clean measurements: "
        "masks, lost pixels.",
    )  # fmt: skip
    SETTINGS = COMMON


class FPSNode(MeasuredSamplerNode):
    METHOD = FPS
    HEAD = (
        "PosteriorFPS", "FPS-SMC (Particle Sampler)",
        "Particles filtered with a noisy version of the measurement at each level. Robust with few particles, but its "
        "samples vary too little. For linear damage with singular values.",
    )  # fmt: skip
    SETTINGS = COMMON


NODES = [TDSNode, MatchedTDSNode, MCGDiffNode, DDSMCNode, SMCDiffNode, FPSNode]
