"""Finishing nodes: what is done to a picture after sampling."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..measurement.blend import keep_measured
from .search import found_by
from .sockets import Measurement, picture, planes


class KeepMeasuredPixelsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorKeepMeasuredPixels",
            display_name="Keep Measured Pixels",
            **found_by("PosteriorKeepMeasuredPixels"),
            category="posterior/measurement",
            description="Puts your own pixels back, bit for bit, and fits the filled-in part to them without a seam. The "
            "last step of inpainting and outpainting with any model.",
            inputs=[
                io.Image.Input(
                    "image", tooltip="What the model made. Where it is larger than your picture, it is cut to its size."
                ),
                Measurement.Input("measurement", tooltip="What was seen: your picture and the mask, or the frame."),
            ],
            outputs=[
                io.Image.Output(
                    "kept", display_name="image", tooltip="Your pixels where they are known, the model's elsewhere."
                )
            ],
        )

    @classmethod
    def execute(cls, image, measurement) -> io.NodeOutput:
        with torch.no_grad():
            return io.NodeOutput(picture(keep_measured(measurement, planes(image))))


NODES = [KeepMeasuredPixelsNode]
