"""Nodes that read off a picture how sharp it is: its blur, of a kind or of any shape, and its true size."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..measurement.blur_estimate import estimate_blur
from ..measurement.kernel_estimate import estimate_kernel
from ..measurement.measurement import require_finite
from ..measurement.true_size import true_size
from ..operators.identity import Identity
from .diagnose import CATEGORY, picture_input, report_output
from .report import spoken
from .search import found_by
from .sockets import Operator, picture, planes

#: a confidence below which the report asks to look
SURE = 0.8


class EstimateBlurNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorEstimateBlur",
            display_name="Estimate Blur",
            **found_by("PosteriorEstimateBlur"),
            category=CATEGORY,
            description="How a picture was blurred, from the picture alone: softly, out of focus, by a straight movement, "
            "or not at all.",
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The blurred picture, at least 64 x 64 pixels, better 256 x 256, not resized. A batch is read as "
                    "several pictures with the same blur.",
                )
            ],
            outputs=[
                Operator.Output(
                    "operator", display_name="operator",
                    tooltip="The blur that was found, for Observe; of a sharp picture one that changes nothing.",
                ),
                io.Float.Output(
                    "size", display_name="size", tooltip="Sigma, radius or length, pixels; 0 where there is no blur."
                ),
                io.Float.Output(
                    "angle", display_name="angle", tooltip="Of a movement, degrees anticlockwise from horizontal; else 0."
                ),
                io.Float.Output(
                    "confidence", display_name="confidence", tooltip="How sure the kind of blur is, 0 to 1."
                ),
                report_output(),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, image) -> io.NodeOutput:
        with torch.inference_mode(False):
            x = planes(image)
            require_finite(x)
            found = estimate_blur(x)
            size, angle = (*found.parameters, 0.0, 0.0)[:2]
            report = f"{found}."
            if found.confidence < SURE:
                second = sorted(found.probabilities, key=found.probabilities.__getitem__)[-2]
                report += f" It could also be {'sharp' if second == 'none' else second}: compare the results."
            return spoken(found.operator or Identity(), size, angle, found.confidence, report, text=report)


class EstimateShakeNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorEstimateShake",
            display_name="Estimate Camera Shake",
            **found_by("PosteriorEstimateShake"),
            category=CATEGORY,
            description="The path of a hand that trembled, or a blur of any other shape, from the picture alone.",
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The blurred picture, at least 64 x 64 pixels, better 256 x 256, not resized. A batch is read as "
                    "several pictures with the same blur; of large ones the middle is read.",
                ),
                io.Int.Input(
                    "width", default=31, min=3, max=101, step=2,
                    tooltip="How wide the blur is at most, in pixels: not smaller than it looks, not much larger. Start with "
                    "31.",
                ),
            ],
            outputs=[
                Operator.Output("operator", display_name="operator", tooltip="The blur that was found, for Observe."),
                io.Image.Output(
                    "kernel", display_name="kernel",
                    tooltip="What became of a point of light: the path. To look at, or to repaint for Kernel Blur.",
                ),
                report_output(),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, image, width) -> io.NodeOutput:
        with torch.inference_mode(False):
            x = planes(image)
            require_finite(x)
            found = estimate_kernel(x, width | 1)
            report = f"{found}."
            if not found.clear:
                report += " But no blur is nearly as likely: look at the kernel, and compare the results."
            shown = picture((found.kernel / found.kernel.max()).expand(-1, 3, -1, -1))
            return spoken(found.operator, shown, report, text=report)


class FindTrueSizeNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorFindTrueSize",
            display_name="Find True Size",
            **found_by("PosteriorFindTrueSize"),
            category=CATEGORY,
            description="Whether a picture was made larger by a program, and from what size; gives back the small picture, "
            "to be enlarged again with a model.",
            inputs=[picture_input("The picture, whole: not cut since it was enlarged.")],
            outputs=[
                Operator.Output(
                    "operator", display_name="operator",
                    tooltip="From this size to the true one, for Observe with the small picture; of a picture that was not "
                    "enlarged one that changes nothing.",
                ),
                io.Image.Output("small", display_name="small", tooltip="The picture in its true size, for Observe."),
                io.Float.Output("factor", display_name="factor", tooltip="How many times it was enlarged; 1 where it was not."),
                report_output(),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, image) -> io.NodeOutput:
        with torch.inference_mode(False):
            x = planes(image)[:1]
            require_finite(x)
            found = true_size(x)
            if found is None:
                report = "not enlarged, or cut or changed since."
                return spoken(Identity(), picture(x), 1.0, report, text=report)
            report = f"{found}."
            return spoken(found.operator, picture(found.small(x)), found.factor, report, text=report)


NODES = [EstimateBlurNode, EstimateShakeNode, FindTrueSizeNode]
