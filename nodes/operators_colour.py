"""Operator nodes for lost colours and brightness, and for compression."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..operators.grayscale import Grayscale
from ..operators.identity import Scale
from ..operators.jpeg import JPEG
from ..operators.pointwise import DITHERS, Gamma, Palette, Quantisation, Saturation
from .operator_schema import operator_schema, seed_input
from .sockets import planes


class GrayscaleNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorGrayscale",
            "Colorization (From Grey)",
            "Only the brightness was recorded. Solving adds colours that the model finds natural.",
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(Grayscale())


class OverexposureNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorOverexposure",
            "Overexposure (Clipped Light)",
            "Too much light or contrast, cut off where the sensor ends. Solving invents what was cut. Needs DPS.",
            [
                io.Float.Input(
                    "gain", default=2.0, min=0.1, max=16.0, step=0.1,
                    tooltip="How many times too bright (no unit); 2 is one stop. Start with 2.",
                ),
                io.Float.Input(
                    "pivot", default=0.0, min=0.0, max=1.0, step=0.05,
                    tooltip="The brightness that stays, 0 to 1. 0: highlights are cut. 0.5: both ends are. Start with 0.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, gain, pivot) -> io.NodeOutput:
        return io.NodeOutput(Saturation(gain, pivot))


class GammaNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorGamma",
            "Gamma",
            "The middle tones were made darker or brighter by a power law. Needs DPS.",
            [
                io.Float.Input(
                    "gamma", default=2.2, min=0.1, max=5.0, step=0.1,
                    tooltip="Exponent (no unit): above 1 is darker, below 1 brighter. Start with 2.2.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, gamma) -> io.NodeOutput:
        return io.NodeOutput(Gamma(gamma))


class ScaleNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorScale",
            "Brightness Scale",
            "All values were multiplied by a number: a dark exposure, half the light of a beam splitter.",
            [
                io.Float.Input(
                    "factor", default=0.5, min=0.01, max=10.0, step=0.01,
                    tooltip="The number (no unit); 0.5 is half as bright. Start with 0.5.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, factor) -> io.NodeOutput:
        return io.NodeOutput(Scale(factor))


class FewerColoursNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorFewerColours",
            "Fewer Colours (Bit Depth)",
            "Each colour was rounded to a few levels, with or without dithering. Solving smooths the bands. Needs DPS.",
            [
                io.Int.Input(
                    "levels", default=4, min=2, max=256,
                    tooltip="Levels per colour; 2^n for n bits. Start with 4.",
                ),
                io.Combo.Input(
                    "dither", options=list(DITHERS), default="none",
                    tooltip="none: plain rounding. ordered: a regular 8 x 8 pattern. random: noise. Start with none.",
                ),
                seed_input("the random dither"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, levels, dither, seed) -> io.NodeOutput:
        return io.NodeOutput(Quantisation(levels, dither, seed))


class PaletteNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorPalette",
            "Palette (GIF)",
            "Each pixel got the nearest of a few colours, as in a GIF. Solving smooths the steps. Needs DPS.",
            [io.Image.Input("image", tooltip="The damaged picture, or any with the same colours; at most 256 of them.")],
        )

    @classmethod
    def execute(cls, image) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(Palette.of(planes(image)))


class JPEGNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorJPEG",
            "JPEG Compression",
            "The picture went through JPEG. Solving removes blocks and smears. Needs DPS or Pi-GDM.",
            [
                io.Int.Input(
                    "quality", default=20, min=1, max=100,
                    tooltip="Quality it was saved with, 1 (worst) to 100. Start with 20.",
                ),
                io.Combo.Input(
                    "subsampling", options=list(JPEG.SUBSAMPLINGS), default="4:2:0",
                    tooltip="4:2:0: colours at half size, what cameras and most programs do. 4:4:4: full. Start with 4:2:0.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, quality, subsampling) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(JPEG(quality, subsampling))


NODES = [GrayscaleNode, OverexposureNode, GammaNode, ScaleNode, FewerColoursNode, PaletteNode, JPEGNode]
