"""Operator nodes for pixels that are missing."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..operators.crop import Crop
from ..operators.inpainting import Inpainting, Mosaic, RandomPixels
from .operator_schema import operator_schema, seed_input
from .sockets import hole


class InpaintingNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorInpainting",
            "Inpainting (Mask)",
            "Some pixels are lost: scratches, text, an object to remove. The mask marks what to fill in.",
            [
                io.Mask.Input("mask", tooltip="White marks what is lost. Same size as the picture."),
                io.Combo.Input(
                    "soft_edges", options=["lost", "uncertain"], default="lost", optional=True,
                    tooltip="Grey pixels of the mask. lost: not trusted at all. uncertain: trusted less, the whiter the "
                    "less (half white is lost), for soft blends. Start with lost.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, mask, soft_edges="lost") -> io.NodeOutput:
        with torch.inference_mode(False):
            soft = {"threshold": 0.5, "doubt": 0.5} if soft_edges == "uncertain" else {}
            return io.NodeOutput(Inpainting(hole(mask), **soft))


class RandomPixelsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorRandomPixels",
            "Random Pixel Loss",
            "A share of the pixels is lost at random, as with a broken sensor or a bad transmission.",
            [
                io.Float.Input(
                    "fraction", default=0.5, min=0.01, max=0.99, step=0.01,
                    tooltip="Share of the pixels that is lost, 0 to 1. Start with 0.5; up to 0.9 is solvable.",
                ),
                seed_input("which pixels are lost"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, fraction, seed) -> io.NodeOutput:
        return io.NodeOutput(RandomPixels(fraction, seed))


class OutpaintingNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        def side(name: str) -> io.Int.Input:
            return io.Int.Input(
                name, default=32, min=0, max=4096, step=8,
                tooltip=f"Pixels to invent at the {name}. Start with 32; wide borders need a strong model.",
            )  # fmt: skip

        return operator_schema(
            "PosteriorOutpainting",
            "Outpainting (Wider Frame)",
            "The picture is the middle of a larger one. Solving invents the border.",
            [side("left"), side("top"), side("right"), side("bottom")],
        )

    @classmethod
    def execute(cls, left, top, right, bottom) -> io.NodeOutput:
        return io.NodeOutput(Crop(left, top, right, bottom))


class MosaicNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorMosaic",
            "Bayer Mosaic (Raw Sensor)",
            "A camera sensor that sees only one colour at each pixel. Solving is demosaicing.",
            [
                io.Combo.Input(
                    "pattern", options=list(Mosaic.PATTERNS), default="RGGB",
                    tooltip="Colours of the top left 2 x 2 pixels, row by row; see the camera's data. Start with RGGB.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, pattern) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(Mosaic(pattern))


NODES = [InpaintingNode, RandomPixelsNode, OutpaintingNode, MosaicNode]
