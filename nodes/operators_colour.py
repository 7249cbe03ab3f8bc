"""Operator nodes for lost colours and brightness, and for compression."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..algebra.refusal import Refusal
from ..host.jpeg_file import is_jpeg, read_jpeg
from ..operators.dither import ErrorDiffusion
from ..operators.families import Exposure
from ..operators.family import told
from ..operators.grayscale import Grayscale
from ..operators.identity import Scale
from ..operators.jpeg import JPEG
from ..operators.levels import Levels
from ..operators.pointwise import DITHERS, Gamma, Palette, Quantisation, Saturation
from .operator_schema import estimate_input, operator_schema, seed_input
from .report import spoken
from .search import found_by
from .sockets import JPEGFile, planes

#: the dither that has no derivative
DIFFUSED = "error diffusion"


class GrayscaleNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorGrayscale",
            "Colorization (Colorize From Grey)",
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
            "All values were multiplied by a number: a dark exposure, half the light of a beam splitter. With an offset: "
            "a faded photo.",
            [
                io.Float.Input(
                    "factor", default=0.5, min=0.01, max=10.0, step=0.01,
                    tooltip="The number (no unit); 0.5 is half as bright. Start with 0.5.",
                ),
                io.Float.Input(
                    "offset", default=0.0, min=-1.0, max=1.0, step=0.01, round=False, optional=True,
                    tooltip="What was added after that, where black is 0 and white is 1; a faded photo has about 0.3. "
                    "For Observe. Start with 0.",
                ),
                estimate_input(),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, factor, offset=0.0, estimate=False) -> io.NodeOutput:
        return io.NodeOutput(told(Scale(factor, offset), Exposure(offset=False), estimate))


class LevelsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        def gain(colour: str) -> io.Float.Input:
            return io.Float.Input(
                colour, default=1.0, min=0.05, max=20.0, step=0.01, optional=True,
                tooltip=f"What {colour} was multiplied by besides (no unit), for a colour cast. Start with 1, no cast.",
            )  # fmt: skip

        return operator_schema(
            "PosteriorLevels",
            "Levels (Fading, Exposure)",
            "The values were multiplied by a number and another one was added, the same for all pixels: a faded photo, a "
            "wrong exposure, a colour cast.",
            [
                io.Float.Input(
                    "gain", default=0.5, min=0.01, max=20.0, step=0.01, round=False,
                    tooltip="The number (no unit): white less black of the faded photo. Start with 0.5.",
                ),
                io.Float.Input(
                    "offset", default=0.3, min=-1.0, max=1.0, step=0.01, round=False,
                    tooltip="What was added after that: the faded photo's black, where black is 0 and white is 1. Start "
                    "with 0.3.",
                ),
                *map(gain, ("red", "green", "blue")),
                estimate_input(),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, gain, offset, red=1.0, green=1.0, blue=1.0, estimate=False) -> io.NodeOutput:
        with torch.inference_mode(False):
            levels = Levels(gain * torch.tensor([red, green, blue]), offset)
        return io.NodeOutput(told(levels, Exposure(), estimate))


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
                    "dither", options=[*DITHERS, DIFFUSED], default="none",
                    tooltip="none: plain rounding. ordered: a regular 8 x 8 pattern. random: noise. error diffusion: "
                    "irregular dots, as most programs make them; taken as grain, for any method. Start with none.",
                ),
                seed_input("the random dither"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, levels, dither, seed) -> io.NodeOutput:
        if dither == DIFFUSED:
            with torch.inference_mode(False):
                return io.NodeOutput(ErrorDiffusion(1 / (levels - 1)))
        return io.NodeOutput(Quantisation(levels, dither, seed))


class PaletteNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorPalette",
            "Palette (GIF)",
            "Each pixel got the nearest of a few colours, as in a GIF. Solving smooths the steps. Needs DPS.",
            [
                io.Image.Input("image", tooltip="The damaged picture, or any with the same colours; at most 256 of them."),
                io.Combo.Input(
                    "dither", options=["none", DIFFUSED], default="none", optional=True,
                    tooltip="none: each pixel has the nearest colour. error diffusion: dots of several colours stand for "
                    "those in between, as in most GIFs; taken as grain, for any method. Start with none.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, image, dither="none") -> io.NodeOutput:
        with torch.inference_mode(False):
            palette = Palette.of(planes(image))
            return io.NodeOutput(ErrorDiffusion(palette) if dither == DIFFUSED else palette)


class JPEGNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        def shift(name: str, what: str) -> io.Int.Input:
            return io.Int.Input(
                name, default=0, min=0, max=15, optional=True,
                tooltip=f"Pixels that were cut off at the {what} since it was saved (less any multiple of 16), before the "
                "picture was turned. Start with 0.",
            )  # fmt: skip

        return operator_schema(
            "PosteriorJPEG",
            "JPEG Compression (Remove Artifacts)",
            "The picture went through JPEG. Solving removes blocks and smears. Needs DPS or Pi-GDM.",
            [
                io.Int.Input(
                    "quality", default=20, min=1, max=100,
                    tooltip="Quality it was saved with, 1 (worst) to 100. Start with 20.",
                ),
                io.Combo.Input(
                    "subsampling", options=list(JPEG.SUBSAMPLINGS), default="4:2:0",
                    tooltip="4:2:0: colours at half size, what cameras and most programs do. 4:4:4: full. 4:2:2: half as "
                    "wide. Start with 4:2:0.",
                ),
                JPEGFile.Input(
                    "file", optional=True,
                    tooltip="From Read JPEG File: what the file itself says, in place of quality and subsampling.",
                ),
                shift("shift_x", "left"),
                shift("shift_y", "top"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, quality, subsampling, file=None, shift_x=0, shift_y=0) -> io.NodeOutput:
        settings = {"quality": quality, "subsampling": subsampling, **(file or {})}
        with torch.inference_mode(False):
            return io.NodeOutput(JPEG(**settings, offset=(shift_x, shift_y)))


class ReadJPEGNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorReadJPEG",
            display_name="Read JPEG File",
            **found_by("PosteriorReadJPEG"),
            category="posterior/measurement",
            description="How a JPEG file was compressed: its own tables, its chroma and the way it is turned, for JPEG "
            "Compression. Choose the file that Load Image loads.",
            inputs=[
                io.Combo.Input(
                    "file", options=jpeg_files(), upload=io.UploadType.image,
                    tooltip="A JPEG file in ComfyUI's input folder, as it came: not one that was loaded and saved again.",
                ),
            ],
            outputs=[
                JPEGFile.Output("jpeg", display_name="file", tooltip="For JPEG Compression."),
                io.String.Output("report", display_name="report", tooltip="What the file says, in words."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        if (fault := cls.validate_inputs(file)) is not True:
            raise Refusal(fault)
        settings, report = read_jpeg(folder_paths.get_annotated_filepath(file))
        return spoken(settings, report, text=report)

    @classmethod
    def validate_inputs(cls, file):
        """file: None where another node gives it, which has not run yet."""
        if file is None:
            return True
        name = Path(folder_paths.annotated_filepath(file)[0]) if isinstance(file, str) else Path("..")
        inside = not name.is_absolute() and ".." not in name.parts and file.isprintable()
        found = inside and os.path.isfile(
            folder_paths.get_annotated_filepath(file)
        )  # no error where a name is too long
        return True if found else "There is no such file in the input folder; choose a JPEG file of the list."

    @classmethod
    def fingerprint_inputs(cls, file):
        path = folder_paths.get_annotated_filepath(file) if isinstance(file, str) else ""
        return os.stat(path).st_mtime_ns if os.path.isfile(path) else None


def jpeg_files() -> list[str]:
    """The JPEG files in the host's input folder."""
    return sorted(path.name for path in Path(folder_paths.get_input_directory()).glob("*") if is_jpeg(path.name))


NODES = [
    GrayscaleNode, OverexposureNode, GammaNode, ScaleNode, LevelsNode, FewerColoursNode, PaletteNode, JPEGNode, ReadJPEGNode,
]  # fmt: skip
