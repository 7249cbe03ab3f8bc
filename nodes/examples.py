"""Example pictures: damaged already, where a user's own would be, and clean ones for studies."""

from __future__ import annotations

from comfy_api.latest import io

from ..photos import DAMAGES, PHOTOS, load_damage, load_photo
from ..photos.damaged import DAMAGED, load_damaged
from .search import found_by


class ExamplePhotoNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorExamplePhoto",
            display_name="Example Photo",
            category="posterior/measurement",
            description="A free photo that no model of this pack was trained on, and a mask of damage over it. "
            "Put Load Image in its place to repair a picture of your own.",
            inputs=[
                io.Combo.Input("photo", options=PHOTOS, default="chelsea", tooltip="Which photo. Start with chelsea."),
                io.Combo.Input("damage", options=DAMAGES, default=DAMAGES[0], tooltip="What the mask marks."),
                io.Int.Input(
                    "size", default=256, min=64, max=512, step=8,
                    tooltip="Side of the square that is cut out, in pixels. Start with 256.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The clean photo."),
                io.Mask.Output("mask", display_name="mask", tooltip="White where the damage is."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, photo, damage, size) -> io.NodeOutput:
        return io.NodeOutput(load_photo(photo, size), load_damage(damage, size))


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


NODES = [ExamplePhotoNode, DamagedPhotoNode]
