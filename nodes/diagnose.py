"""Nodes that read off a damaged picture what happened to it; no model is needed."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..algebra.refusal import Refusal
from ..measurement.jpeg_tables import compression
from .report import spoken
from .search import found_by
from .sockets import Operator, planes

CATEGORY = "posterior/diagnose"


def picture_input(what: str) -> io.Image.Input:
    return io.Image.Input("image", tooltip=f"{what} At least 64 x 64 pixels, not resized; the first of a batch is read.")


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
                    "since. Take JPEG Compression with a quality of your own, or none."
                )
            return spoken(found.operator(), found.quality, found.words(), text=found.words())


NODES = [EstimateJPEGNode]
