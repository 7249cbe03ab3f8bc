"""Operator nodes for pixels that are missing."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..operators.crop import Crop
from ..operators.inpainting import DOUBT, Inpainting, Mosaic, RandomPixels
from .operator_schema import operator_schema, seed_input
from .report import share_in_words, spoken
from .sockets import hole


class InpaintingNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorInpainting",
            "Inpainting (Remove Text, Scratches)",
            "Some pixels are lost: scratches, text, an object to remove. The mask marks what to fill in.",
            [
                io.Mask.Input("mask", tooltip="White marks what is lost. Same size as the picture."),
                io.Combo.Input(
                    "soft_edges", options=["lost", "uncertain"], default="lost", optional=True,
                    tooltip="Grey pixels of the mask. lost: not trusted at all. uncertain: trusted less, the whiter the "
                    "less (half white is lost), for soft blends. Start with lost.",
                ),
                io.Float.Input(
                    "threshold", default=0.0, min=0.0, max=1.0, step=0.01, optional=True,
                    tooltip="From which grey on a pixel of the mask is lost, black 0 to white 1. 0: the usual one, 0.02 "
                    "for lost and 0.5 for uncertain. Start with 0; 0.5 for masks that are JPEG files or no clean black and white.",
                ),
                io.Int.Input(
                    "grow", default=0, min=0, max=256, optional=True,
                    tooltip="Pixels around what is painted that are lost as well, for masks painted tightly. Start with "
                    "0; 2 to 4 where ghost lines stay.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, mask, soft_edges="lost", threshold=0.0, grow=0) -> io.NodeOutput:
        usual, doubt = (0.5, DOUBT) if soft_edges == "uncertain" else (0.02, 0.0)
        with torch.inference_mode(False):
            operator = Inpainting(hole(mask), threshold or usual, doubt, grow)
        return spoken(operator, text=share_in_words(1 - operator.keep.double().mean().item()))


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
