"""Nodes that read off a damaged picture what happened to it; no model is needed."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..algebra.refusal import Refusal
from ..measurement.jpeg_tables import compression
from ..measurement.measurement import require_finite
from ..measurement.noise_level import noise_curve
from ..measurement.noise_spectrum import noise_spectrum
from ..measurement.plain_noise import estimated_level
from ..measurement.scratches import scratches
from .report import share_in_words, spoken
from .search import found_by
from .sockets import Operator, planes

CATEGORY = "posterior/diagnose"


def picture_input(what: str) -> io.Image.Input:
    return io.Image.Input(
        "image", tooltip=f"{what} At least 64 x 64 pixels, not resized; the first of a batch is read."
    )


def report_output() -> io.String.Output:
    return io.String.Output("report", display_name="report", tooltip="What was found, in words.")


class EstimateJPEGNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorEstimateJPEG",
            display_name="Estimate JPEG",
            **found_by("PosteriorEstimateJPEG"),
            category=CATEGORY,
            description="How a picture was compressed, from its pixels alone: tables, chroma and where the blocks begin, also "
            "of a screenshot or a crop. Of two compressions the stronger one.",
            inputs=[picture_input("A picture that went through JPEG, in any file.")],
            outputs=[
                Operator.Output("operator", display_name="operator", tooltip="The JPEG that was found, for Observe."),
                io.Int.Output("quality", display_name="quality", tooltip="Nearest quality of most programs, 1 to 100."),
                report_output(),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image) -> io.NodeOutput:
        with torch.inference_mode(False):
            found = compression(planes(image)[:1])
            if found is None:
                raise Refusal(
                    "No JPEG was found in this picture: it was never compressed, hardly (quality above 95), or resized "
                    "since; take JPEG Compression with a quality of your own, or none."
                )
            return spoken(found.operator(), found.quality, found.words(), text=found.words())


class EstimateNoiseNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorEstimateNoise",
            display_name="Estimate Noise Level",
            **found_by("PosteriorEstimateNoise"),
            category=CATEGORY,
            description="How noisy a picture is: the sigma_y for Observe. For even grain, and for blotches that a phone, an "
            "enlargement or a blur has made of it where some part of the picture is flat.",
            inputs=[io.Image.Input("image", tooltip="The noisy picture, at least 64 x 64 pixels, not resized.")],
            outputs=[
                io.Float.Output(
                    "sigma_y", display_name="sigma_y", tooltip="Standard deviation, white is 1; mean of a batch."
                ),
                io.String.Output("report", display_name="report", tooltip="The level of each picture."),
                io.Float.Output(
                    "gain",
                    display_name="gain",
                    tooltip="Of a camera's noise, whose variance is gain x + read_noise^2; 0 where it is the same everywhere.",
                ),
                io.Float.Output(
                    "read_noise", display_name="read_noise", tooltip="The sigma_y for Observe beside this gain."
                ),
                io.Float.Output(
                    "blotch",
                    display_name="blotch",
                    tooltip="Size of the blotches, in pixels, for Observe beside sigma_y; 0 where the noise is even grain. Of "
                    "the first picture.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image) -> io.NodeOutput:
        x = planes(image)
        require_finite(x)
        levels, (gain, read) = [estimated_level(each[None]) for each in x], noise_curve(x[:1])
        report = f"noise level {', '.join(f'{level:.4f}' for level in levels)} (white is 1): the sigma_y for Observe."
        if min(levels) < 0.01:
            report += " A JPEG or an enlarged picture hides some of its noise: take at least 0.01 there."
        if gain > max(0.0005, read**2):
            report += f" It grows with brightness: gain {gain:.4f} and read-out noise {read:.4f} describe it better."
        level, found = sum(levels) / len(levels), noise_spectrum(x[:1])
        if not found.coloured:
            return spoken(level, report, gain, read, 0.0, text=report)
        level, blotch = found.total, found.length.median().item()
        report = f"noise level {level:.4f} (white is 1): the sigma_y for Observe. It has blotches: their size is {blotch:.1f}."
        return spoken(level, report, 0.0, level, blotch, text=report)


class FindScratchesNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorFindScratches",
            display_name="Find Scratches and Dust",
            **found_by("PosteriorFindScratches"),
            category=CATEGORY,
            description="A mask of scratches, lettering and specks that are lighter or darker than the picture, in one colour. "
            "Look at it before it is used; what has the picture's own colours must be painted by hand.",
            inputs=[
                io.Image.Input("image", tooltip="The damaged picture; each of a batch gets its mask."),
                io.Float.Input(
                    "sensitivity", default=0.5, min=0.0, max=1.0, step=0.05,
                    tooltip="0: only the plainest. 1: nearly everything thin. Start with 0.5.",
                ),
            ],
            outputs=[
                io.Mask.Output("mask", display_name="mask", tooltip="White where it is damaged; for Inpainting."),
                report_output(),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, image, sensitivity) -> io.NodeOutput:
        x = planes(image)
        mask = torch.cat([scratches(each[None], sensitivity) for each in x])[:, 0]
        report = share_in_words(mask.mean().item()) or "Nothing was found; raise the sensitivity, or paint a mask."
        return spoken(mask, report, text=report)


NODES = [EstimateJPEGNode, EstimateNoiseNode, FindScratchesNode]
