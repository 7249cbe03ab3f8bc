"""Operator nodes for pictures that are too small."""

from __future__ import annotations

import math

from comfy_api.latest import io

from ..algebra.refusal import Refusal
from ..operators.downscale import FILTERS, Resize, downscale
from .operator_schema import operator_schema
from .report import spoken
from .sockets import planes


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
            "Super-Resolution (Upscale by a Factor)",
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
                name, default=512, min=0, max=8192, step=8,
                tooltip=f"Wanted {name}, pixels, at least the small picture's. 0: as the other side and the shape of the "
                "picture say. Start with 512, and 0 for the other.",
            )  # fmt: skip

        return operator_schema(
            "PosteriorUpscaleTo",
            "Super-Resolution (Upscale to Size)",
            "The picture was made smaller. Solving brings it to a size of your choice, whole factor or not.",
            [
                io.Image.Input(
                    "image", tooltip="The small picture; only its size is used here. Observe the same picture."
                ),
                side("width"),
                side("height"),
                kernel_input(),
            ],
        )

    @classmethod
    def execute(cls, image, width, height, kernel) -> io.NodeOutput:
        small = planes(image).shape[2:]
        large = whole_size(small, (height, width))
        return spoken(Resize(large, tuple(small), kernel), text=stretching(small, large))


def whole_size(small: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """(H, W) in which a side of 0 follows from the other and from the shape of the small picture.

    Raises:
        Refusal: when both are 0.
    """
    if not any(wanted):
        raise Refusal("Both wanted sides are 0; give one of them, and 0 for the other to keep the shape.")
    height, width = wanted
    return height or round(width * small[0] / small[1]), width or round(height * small[1] / small[0])


def stretching(small: tuple[int, int], large: tuple[int, int]) -> str:
    """A sentence where the shape is not kept, by more than 3 per cent."""
    stretch = large[1] * small[0] / (large[0] * small[1])
    if abs(math.log(stretch)) <= math.log(1.03):
        return ""
    kept = " x ".join(map(str, reversed(whole_size(small, (0, large[1])))))
    return (
        f"{small[1]} x {small[0]} to {large[1]} x {large[0]} stretches the picture's width by {stretch:.2f} against its "
        f"height; set height to 0 to keep its shape ({kept})."
    )


NODES = [SuperResolutionNode, UpscaleToNode]
