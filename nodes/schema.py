"""Nodes of methods: the inputs follow from the method's dataclass, the words from a row for each of its fields.

A method's node says `METHOD`, its `HEAD` (id, display name, description) and its `SETTINGS`. What a field is (a number, a
choice, a switch) and where it starts stands in the dataclass; the row says what an artist must know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from comfy_api.latest import io

from ..guidance.auto import EFFORTS
from ..guidance.base import Guidance as Carrier
from ..host.record import RunRecord
from ..host.run import Guide
from ..host.sampler import GuidedSampler
from ..samplers.base import Sampler
from .search import found_by
from .sockets import Convergence, Guidance, Measurement


@dataclass(frozen=True)
class Setting:
    """The input for one field of a method.

    Args:
        field: its name in the dataclass.
        tooltip: what it does, its unit and a good starting value.
        least, most, step: range of a number and what one click changes; step 0 for whole numbers is 1.
        start: another starting value than the dataclass has.
        id: the input's name where it is not the field's.
        words: what a switch is called when it is on and when it is off.
        later: whether it came after workflows had been shared: optional and at the end, so that theirs keep their places.
        fine: whether an input shows all digits instead of those of `step`.
        fixed: for a seed, whether the editor must not change it with each Run.
    """

    field: str
    tooltip: str
    least: float | None = None
    most: float | None = None
    step: float = 0.0
    start: Any = None
    id: str = ""
    words: tuple[str, str] | None = None
    later: bool = False
    fine: bool = False
    fixed: bool = False

    @property
    def name(self) -> str:
        """The input's id."""
        return self.id or self.field

    def input(self, method: type) -> io.Input:
        """The input of a node for this field of the method."""
        kind, start = get_type_hints(method)[self.field], self.start
        if start is None:
            default = next(field for field in fields(method) if field.name == self.field).default
            start = None if default is MISSING else default
        options: dict[str, Any] = {"tooltip": self.tooltip, "default": start}
        options |= {"optional": True} if self.later else {}
        if self.words:
            options["default"] = self.words[0 if start else 1]
            return io.Combo.Input(self.name, options=list(self.words), **options)
        if get_origin(kind) is Literal:
            return io.Combo.Input(self.name, options=list(get_args(kind)), **options)
        if kind is int:
            options |= {"control_after_generate": False} if self.fixed else {}
            options |= {"step": int(self.step)} if self.step else {}
            return io.Int.Input(self.name, min=int(self.least), max=int(self.most), **options)
        options |= {"round": False} if self.fine else {}
        return io.Float.Input(self.name, min=self.least, max=self.most, step=self.step, **options)

    def value(self, given: Any) -> Any:
        """What the method is told for what the input holds."""
        return given == self.words[0] if self.words else given


class MethodNode(io.ComfyNode):
    """A node whose inputs are fields of a method."""

    METHOD: type
    HEAD: tuple[str, str, str]
    SETTINGS: Sequence[Setting] = ()

    @classmethod
    def inputs(cls, later: bool = False) -> list[io.Input]:
        return [setting.input(cls.METHOD) for setting in cls.SETTINGS if setting.later == later]

    @classmethod
    def settings(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The fields of the method for what the inputs hold; optional ones that are not there keep their default."""
        return {setting.field: setting.value(given[setting.name]) for setting in cls.SETTINGS if setting.name in given}


class GuidanceNode(MethodNode):
    """A measurement, the method's own inputs, more guidance and a VAE; guidance out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return guidance_schema(*cls.HEAD, *cls.inputs(), later=cls.inputs(later=True))

    @classmethod
    def make(cls, measurement, **given: Any):
        """The block."""
        return cls.METHOD(measurement, **cls.settings(given))

    @classmethod
    def execute(cls, measurement, guidance=None, vae=None, **given: Any) -> io.NodeOutput:
        return chain(lambda: cls.make(measurement, **given), guidance, vae)


class SamplerNode(MethodNode):
    """The method's own inputs and guidance; a SAMPLER out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return sampler_schema(*cls.HEAD, *cls.inputs(), later=cls.inputs(later=True))

    @classmethod
    def make(cls, **given: Any) -> Sampler:
        """The sampler."""
        return cls.METHOD(**cls.settings(given))

    @classmethod
    def execute(cls, guidance=None, **given: Any) -> io.NodeOutput:
        return io.NodeOutput(GuidedSampler(guidance or (), cls.make(**given)))


class MeasuredSamplerNode(SamplerNode):
    """A measurement that the sampler brings in by its own means, and a VAE; a SAMPLER and its record out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = sampler_schema(*cls.HEAD, *cls.inputs(), later=cls.inputs(later=True))
        vae = io.Vae.Input(
            "vae", optional=True, tooltip="Needed for latent models (SD, SDXL, Flux ...): their own VAE."
        )
        schema.inputs = [
            Measurement.Input("measurement", tooltip="What was seen."),
            *cls.inputs(), vae, *cls.inputs(later=True),
        ]  # fmt: skip
        schema.outputs.append(
            Convergence.Output("record", display_name="record", tooltip="What the sampler notes: for Convergence Plot.")
        )
        return schema

    @classmethod
    def execute(cls, measurement, vae=None, **given: Any) -> io.NodeOutput:
        trace = RunRecord()
        with torch.inference_mode(False):
            guide = Guide(Carrier(measurement), vae, trace)
        return io.NodeOutput(GuidedSampler((guide,), cls.make(**given)), trace)


def guidance_schema(
    node_id: str, display_name: str, description: str, *inputs: io.Input, later: Sequence[io.Input] = ()
) -> io.Schema:
    """The schema of every guidance node; `later` as in `Setting`."""
    return io.Schema(
        node_id=node_id,
        display_name=display_name,
        category="posterior/guidance",
        description=description,
        **found_by(node_id),
        inputs=[
            Measurement.Input("measurement", tooltip="What was seen."),
            *inputs,
            Guidance.Input(
                "guidance", optional=True, tooltip="More guidance to listen to as well, from another block."
            ),
            io.Vae.Input(
                "vae", optional=True,
                tooltip="Needed for latent models (SD, SDXL, Flux ...): their own VAE, or its TAESD, which is fast.",
            ),
            *later,
        ],
        outputs=[guidance_output()],
    )  # fmt: skip


def effort_input() -> io.Combo.Input:
    return io.Combo.Input(
        "effort", options=list(EFFORTS), default="normal", optional=True,
        tooltip="normal: as many model calls as there are steps. best: up to twice as many. Start with normal.",
    )  # fmt: skip


def guidance_output() -> io.Output:
    return Guidance.Output(
        "guides", display_name="guidance", tooltip="For a guided sampler, or Apply Guidance to Model."
    )


def chain(make, guidance, vae) -> io.NodeOutput:
    """The earlier blocks and a new one, made outside inference mode, since it may hold tensors of its own."""
    with torch.inference_mode(False):
        return io.NodeOutput((*(guidance or ()), Guide(make(), vae)))


def sampler_schema(
    node_id: str, display_name: str, description: str, *inputs: io.Input, later: Sequence[io.Input] = ()
) -> io.Schema:
    """The schema of every node that gives a SAMPLER; `later` as in `Setting`."""
    guidance = Guidance.Input("guidance", optional=True, tooltip="What to listen to; without it the model is sampled.")
    return io.Schema(
        node_id=node_id,
        display_name=display_name,
        category="posterior/samplers",
        description=description,
        inputs=[*inputs, guidance, *later],
        outputs=[io.Sampler.Output("sampler", display_name="sampler", tooltip="For SamplerCustom(Advanced).")],
    )
