"""Operator nodes: what happened to the picture."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..operators.compose import compose
from ..operators.identity import Identity
from . import operators_blur, operators_colour, operators_mask, operators_scale, operators_sensing
from .operator_schema import operator_schema
from .sockets import Operator


class IdentityNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorIdentity",
            "Noise Only (Remove Noise, Grain)",
            "The picture is all there, but noisy. Solving removes the noise.",
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(Identity())


class ComposeNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorCompose",
            "One After the Other",
            "Two things happened to the picture, one after the other: first blurred, then saved as JPEG.",
            [
                Operator.Input("first", tooltip="What happened first."),
                Operator.Input("second", tooltip="What happened to the result of that."),
            ],
        )

    @classmethod
    def execute(cls, first, second) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(compose(second, first))


NODES = [
    IdentityNode,
    *(node for family in (operators_mask, operators_blur, operators_scale, operators_colour, operators_sensing)
      for node in family.NODES),
    ComposeNode,
]  # fmt: skip
