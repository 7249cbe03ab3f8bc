"""Operator nodes for pictures that are too small."""

from __future__ import annotations

from comfy_api.latest import io

from ..operators.downscale import FILTERS, Resize, downscale
from .operator_schema import operator_schema


def kernel_input() -> io.Combo.Input:
    return io.Combo.Input(
        "kernel", options=list(FILTERS), default="bicubic",
        tooltip="How it was made smaller. bicubic: most programs. box: plain averages, as sensors do. lanczos: sharper. "
        "gaussian: soft. Start with bicubic.",
    )  # fmt: skip


class SuperResolutionNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorSuperResolution",
            "Super-Resolution (Factor)",
            "The picture was made smaller by a whole factor. Solving makes it that many times larger.",
            [
                io.Int.Input(
                    "factor", default=4, min=2, max=16,
                    tooltip="How many times smaller each side is than wanted. Start with 4.",
                ),
                kernel_input(),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, factor, kernel) -> io.NodeOutput:
        return io.NodeOutput(downscale(factor, kernel))


class UpscaleToNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        def side(name: str) -> io.Int.Input:
            return io.Int.Input(
                name, default=512, min=16, max=8192, step=8,
                tooltip=f"Wanted {name}, pixels, at least the small picture's. Start with 512.",
            )  # fmt: skip

        return operator_schema(
            "PosteriorUpscaleTo",
            "Super-Resolution (To Size)",
            "The picture was made smaller. Solving brings it to a size of your choice, whole factor or not.",
            [
                io.Image.Input("image", tooltip="The small picture; only its size is used here. Observe the same picture."),
                side("width"),
                side("height"),
                kernel_input(),
            ],
        )

    @classmethod
    def execute(cls, image, width, height, kernel) -> io.NodeOutput:
        return io.NodeOutput(Resize((height, width), tuple(image.shape[1:3]), kernel))


NODES = [SuperResolutionNode, UpscaleToNode]
