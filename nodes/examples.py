"""Example pictures that are damaged already: where a user's own would be."""

from __future__ import annotations

from comfy_api.latest import io

from ..photos.damaged import DAMAGED, load_damaged
from .search import found_by


class DamagedPhotoNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorDamagedPhoto",
            display_name="Damaged Old Photo (Example)",
            **found_by("PosteriorDamagedPhoto"),
            category="posterior/measurement",
            description="A photo that is damaged already, as yours may be: scratches and lettering, blur, grain, JPEG blocks, "
            "a small size, blotches. Put Load Image in its place to repair a picture of your own.",
            inputs=[
                io.Combo.Input(
                    "damage", options=list(DAMAGED), default=next(iter(DAMAGED)),
                    tooltip="What happened to it. Start with scratches and lettering.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The damaged photo; for Observe."),
                io.Mask.Output("mask", display_name="mask", tooltip="White where the damage is; black where it is everywhere."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, damage) -> io.NodeOutput:
        return io.NodeOutput(*load_damaged(damage))


NODES = [DamagedPhotoNode]
