"""Sampler nodes for damage that nobody knows: its parameters are found together with the picture."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..algebra.refusal import Refusal
from ..guidance.base import Guidance as Carrier
from ..guidance.diffpir import PHOTOS, DiffPIR
from ..guidance.dps import DPS
from ..guidance.pigdm import PiGDM
from ..host.record import RunRecord
from ..host.run import Guide
from ..host.sampler import GuidedSampler
from ..measurement.measurement import Measurement as Measured
from ..operators.families import FAMILIES, DiskRadius, Exposure, Family, FreeKernel, GammaCurve, GaussianWidth, Motion
from ..samplers.annealed import AnnealedRestoration
from ..samplers.blind import DETAIL, Blind
from ..samplers.blind_gibbs import BlindSplitGibbs
from ..samplers.blind_red_diff import BlindREDDiff
from ..samplers.unknown import Unknown
from .report import spoken
from .schema import MeasuredSamplerNode, Setting
from .search import found_by
from .sockets import Convergence, picture

CAST = "levels of each colour"
KINDS = [FreeKernel.label, GaussianWidth.label, DiskRadius.label, Motion.label, Exposure.label, CAST, GammaCurve.label]
KINDS += [label for label in FAMILIES if label not in KINDS]
METHODS = {
    "DiffPIR": lambda measurement: DiffPIR(measurement, deviation=PHOTOS),
    "Pi-GDM": lambda measurement: PiGDM(measurement, PHOTOS, jacobian=False),
    "DPS": DPS,
}
GIVEN, FOUND = "as given", "found"


def family(kind: str, size: int) -> Family:
    """The operators of a kind. size: how wide a blur is at most, pixels; it starts at half of that."""
    side = size | 1
    if kind == CAST:
        return Exposure(colours=3)
    starts = {GaussianWidth: {"sigma": size / 8}, DiskRadius: {"radius": size / 4}, Motion: {"length": size / 2}}
    made = FAMILIES[kind]
    return made(side, **starts.get(made, {})) if made in starts or made is FreeKernel else made()


def inputs_of_unknown() -> list[io.Input]:
    return [
        io.Combo.Input(
            "unknown", options=KINDS, default=KINDS[0],
            tooltip="What happened to the picture. any blur: a kernel of any shape. levels: faded or wrongly exposed. nothing: "
            "only the noise is unknown. Start with any blur.",
        ),
        io.Int.Input(
            "size", default=21, min=3, max=101, step=2,
            tooltip="How wide the blur is at most, in pixels: not smaller than it looks, not much larger. Start with 21.",
        ),
        io.Combo.Input(
            "noise", options=[GIVEN, FOUND], default=GIVEN,
            tooltip="as given: sigma_y of the measurement. found: as well as the damage. Start with as given.",
        ),
    ]  # fmt: skip


class BlindNode(MeasuredSamplerNode):
    """A sampler that finds what is unknown; the measurement holds what is known, and what happened last."""

    @classmethod
    def inputs(cls, later: bool = False) -> list[io.Input]:
        return super().inputs(later) if later else [*inputs_of_unknown(), *super().inputs(later)]

    @classmethod
    def unknown(cls, given: dict[str, Any], update: str) -> Unknown:
        """What the inputs say, which are taken out of `given`."""
        found = family(given.pop("unknown"), given.pop("size"))
        with torch.inference_mode(False):
            return Unknown(found, given.pop("noise") == FOUND, update)


class BlindSamplerNode(BlindNode):
    METHOD = Blind
    HEAD = (
        "PosteriorBlindSampler", "Blind Sampler (GibbsDDRM, BlindDPS ...)",
        "For a blur, fading or noise that nobody knows: before each step the damage is found that best explains what was "
        "seen by the model's own picture, and the step listens through it. One model call a step.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "since", least=0.0, most=0.95, step=0.05,
            tooltip="Share of the sampling after which the damage is looked for: the first pictures are too vague. Start "
            "with 0.3; 0 for a restoration.",
        ),
    )  # fmt: skip

    @classmethod
    def inputs(cls, later: bool = False) -> list[io.Input]:
        own = super().inputs(later)
        if later:
            return own
        return [
            *own,
            io.Combo.Input(
                "method", options=list(METHODS), default="DiffPIR",
                tooltip="How the picture listens. DPS: also for gamma, with a gradient through the model (BlindDPS). Start "
                "with DiffPIR.",
            ),
            io.Combo.Input(
                "update", options=["solve", "draw"], default="solve",
                tooltip="solve: the damage that fits best. draw: one of those that fit, at random (GibbsDDRM). Start with "
                "solve.",
            ),
            io.Combo.Input(
                "path", options=["sample", "restoration"], default="sample",
                tooltip="sample: guided DDIM with fresh noise, from an empty latent. restoration: no noise is put back, from "
                "the damaged picture and a moderate sigma. Start with sample.",
            ),
        ]  # fmt: skip

    @classmethod
    def execute(cls, measurement, method, update, path, since, vae=None, **given: Any) -> io.NodeOutput:
        if given["unknown"] == GammaCurve.label and method != "DPS":
            raise Refusal("Gamma is not linear; choose the method DPS.")
        unknown, restores = cls.unknown(given, update), path == "restoration"
        sampler = Blind(unknown, AnnealedRestoration(), since, DETAIL) if restores else Blind(unknown, since=since)
        return guided(METHODS[method], measurement, vae, sampler)


class BlindSplitGibbsNode(BlindNode):
    METHOD = BlindSplitGibbs
    HEAD = (
        "PosteriorBlindSplitGibbs", "Blind Split Gibbs (Joint Posterior)",
        "Draws picture and damage in turn, so that both scatter as they should: exact in the long run for levels, noise and "
        "blurs of a known kind. Each step takes several model calls.",
    )  # fmt: skip
    SETTINGS = (
        Setting("inner", "Model calls of each draw from the model. Start with 10.", 1, 1000),
        Setting("hold", "Further turns at the last noise level: more forget the start better. Start with 10.", 0, 1000),
    )

    @classmethod
    def execute(cls, measurement, vae=None, inner=10, hold=10, **given: Any) -> io.NodeOutput:
        return guided(Carrier, measurement, vae, BlindSplitGibbs(cls.unknown(given, "draw"), inner, hold))


class BlindREDDiffNode(BlindNode):
    METHOD = BlindREDDiff
    HEAD = (
        "PosteriorBlindREDDiff", "Blind RED-diff (Optimised Picture and Damage)",
        "Moves one picture and the damage together towards what was seen and what the model finds natural. One model call a "
        "step, no gradient through the model; any damage of the list.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "prior", least=0.0, most=100.0, step=0.01,
            tooltip="How much the model weighs against the measurement (lambda, no unit). Start with 0.25.",
        ),
        Setting(
            "rate", least=0.001, most=1.0, step=0.001, fine=True,
            tooltip="How far a number of the picture may move in one step, -1 to 1 is black to white. Start with 0.1.",
        ),
        Setting(
            "step", least=0.0001, most=10.0, step=0.001, fine=True,
            tooltip="How far a number of the damage may move in one step, in pixels, factors, or logarithms of a kernel. "
            "Start with 0.03.",
        ),
    )  # fmt: skip

    @classmethod
    def inputs(cls, later: bool = False) -> list[io.Input]:
        return [put for put in super().inputs(later) if put.id != "noise"]  # which its objective does not speak of

    @classmethod
    def execute(cls, measurement, vae=None, prior=0.25, rate=0.1, step=0.03, **given: Any) -> io.NodeOutput:
        unknown = cls.unknown({**given, "noise": GIVEN}, "solve")
        return guided(Carrier, measurement, vae, BlindREDDiff(unknown, prior, rate, step))


def guided(method, measurement: Measured, vae, sampler) -> io.NodeOutput:
    """The SAMPLER that brings in a measurement by a method, and its record."""
    trace = RunRecord()
    with torch.inference_mode(False):
        guide = Guide(method(measurement), vae, trace)
    return io.NodeOutput(GuidedSampler((guide,), sampler), trace)


class FoundDamageNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorFoundDamage",
            display_name="Found Damage",
            **found_by("PosteriorFoundDamage"),
            category="posterior/inspect",
            description="What a blind sampler has found: the blur as a picture, and the numbers.",
            inputs=[
                Convergence.Input("record", tooltip="From a blind sampler."),
                io.Latent.Input("latent", tooltip="What the sampler gave, so that this node waits for it."),
            ],
            outputs=[
                io.Image.Output("kernel", display_name="kernel", tooltip="The blur, for Kernel Blur; a dot for none."),
                io.String.Output("report", display_name="report", tooltip="The numbers, in words."),
            ],
        )

    @classmethod
    def execute(cls, record, latent) -> io.NodeOutput:
        found = record.record
        if "theta" not in found:
            raise Refusal("Nothing was found; connect the record of a blind sampler, and its latent.")
        kernel = found.get("kernel")
        if kernel is None:
            kernel = torch.nn.functional.pad(torch.ones(len(found["theta"]), 1, 1, 1), (1, 1, 1, 1))
        kernel = kernel.detach().clone()
        curves = {name: values for name, values in found.items() if isinstance(values, list) and values}
        words = "; ".join(f"{name} {values[-1]:.4g}" for name, values in curves.items())
        report = f"Found: {words}." if words else "Found: a blur of any shape, see the kernel."
        shown = picture((kernel / kernel.amax((2, 3), keepdim=True)).expand(-1, 3, -1, -1))
        return spoken(shown, report, text=report)


NODES = [BlindSamplerNode, BlindSplitGibbsNode, BlindREDDiffNode, FoundDamageNode]
