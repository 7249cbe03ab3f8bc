"""Everything that can be read off a damaged picture, in one node."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..algebra.refusal import Refusal
from ..measurement.diagnosis import KINDS, diagnose
from .diagnose import CATEGORY, report_output
from .report import spoken
from .search import found_by
from .sockets import Operator, hole, planes

#: the switch of each kind
SWITCHES = {kind.lower().replace(" ", "_"): kind for kind in KINDS}
#: the switch that came after workflows had been shared
LATER = "enlargement"
TOOLTIPS = {
    "jpeg": "Look for JPEG compression: its tables, chroma and place (yes or no). Start with yes.",
    "noise": "Look for grain, even or in blotches (yes or no). Start with yes.",
    "scratches": "Look for scratches, lettering, dust, and what was torn off a faded photo (yes or no). Start with yes.",
    "blur": "Look for blur: a soft lens, out of focus, a straight movement, a camera that shook (yes or no). Start with yes.",
    "fading": "Look for black that has become grey and white that has become dull (yes or no). Start with yes.",
    "enlargement": "Look for an enlargement by a program, and restore from the true size (yes or no). Start with yes.",
    "small_size": "Pictures below 96 pixels are made four times as large (yes or no). Start with yes.",
}


class DiagnosePictureNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorDiagnose",
            display_name="Diagnose Picture (Unknown Damage)",
            **found_by("PosteriorDiagnose"),
            category=CATEGORY,
            description="What happened to a picture, from the picture alone: JPEG, noise, scratches and dust, blur, fading, an enlargement. "
            "operator, sigma_y and blotch go to Observe as they are; no number to type.",
            inputs=[
                io.Image.Input("image", tooltip="The damaged picture as it came, cut perhaps, not resized; the first of a batch is read."),
                io.Float.Input(
                    "sensitivity", default=0.5, min=0.0, max=1.0, step=0.05,
                    tooltip="Of the search for scratches and dust (no unit). 0: only the plainest. 1: nearly everything thin. "
                    "Start with 0.5.",
                ),
                *(io.Boolean.Input(name, default=True, tooltip=TOOLTIPS[name]) for name in SWITCHES if name != LATER),
                io.Mask.Input(
                    "painted_mask", optional=True,
                    tooltip="What you know to be lost, painted by hand: white. It is added to what is found; an empty one counts "
                    "as none.",
                ),
                io.Boolean.Input(LATER, default=True, optional=True, tooltip=TOOLTIPS[LATER]),
            ],
            outputs=[
                Operator.Output("operator", display_name="operator", tooltip="What happened, one after the other; for Observe."),
                io.Float.Output("sigma_y", display_name="sigma_y", tooltip="The noise, white is 1; for Observe."),
                io.Mask.Output("mask", display_name="mask", tooltip="White where pixels are lost; black where none is."),
                report_output(),
                io.Float.Output(
                    "blotch", display_name="blotch", tooltip="Size of the noise's blotches in pixels, 0 for even grain; for Observe."
                ),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, image, sensitivity, painted_mask=None, **switches) -> io.NodeOutput:
        with torch.inference_mode(False):
            x = planes(image)[:1]
            painted = None if painted_mask is None else hole(painted_mask)[:1]
            if painted is not None and painted.max() <= 0:
                painted = None
            if painted is not None and painted.shape[-2:] != x.shape[-2:]:
                raise Refusal(
                    f"The mask is {painted.shape[-1]} x {painted.shape[-2]} pixels and the picture is {x.shape[-1]} x "
                    f"{x.shape[-2]}; make both the same size."
                )
            found = diagnose(
                x, [kind for name, kind in SWITCHES.items() if switches.get(name, True)], sensitivity, painted
            )
            words = found.words()
            return spoken(found.operator(), found.sigma, found.mask[:, 0], words, found.blotch, text=words)


NODES = [DiagnosePictureNode]
