"""Operator nodes: what happened to the picture."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..operators import kernels
from ..operators.convolution import CircularConvolution
from ..operators.identity import Identity
from ..operators.inpainting import Inpainting
from .sockets import Operator, hole

CATEGORY = "posterior/operators"


class IdentityNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorIdentity",
            display_name="Noise Only",
            category=CATEGORY,
            description="The picture is all there, but noisy. Solving removes the noise.",
            outputs=[Operator.Output("operator", display_name="operator", tooltip="What happened to the picture.")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(Identity())


class InpaintingNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorInpainting",
            display_name="Inpainting (Mask)",
            category=CATEGORY,
            description="Some pixels are lost: scratches, text, an object to remove. The mask marks what to fill in.",
            inputs=[
                io.Mask.Input("mask", tooltip="White marks what is lost. Same size as the picture; soft edges count as lost."),
            ],
            outputs=[Operator.Output("operator", display_name="operator", tooltip="What happened to the picture.")],
        )

    @classmethod
    def execute(cls, mask) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(Inpainting(hole(mask)))


class GaussianBlurNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorGaussianBlur",
            display_name="Gaussian Blur",
            category=CATEGORY,
            description="The picture is out of focus in a soft, even way.",
            inputs=[
                io.Float.Input(
                    "sigma", default=2.0, min=0.1, max=50.0, step=0.1,
                    tooltip="Radius of the blur (standard deviation) in pixels. Start with 2; too large gives ringing.",
                ),
            ],
            outputs=[Operator.Output("operator", display_name="operator", tooltip="What happened to the picture.")],
        )

    @classmethod
    def execute(cls, sigma) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(CircularConvolution(kernels.gaussian(sigma)))


NODES = [IdentityNode, InpaintingNode, GaussianBlurNode]
