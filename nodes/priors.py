"""Prior nodes: models that know what pictures look like."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..host.pixel_model import join_experts
from ..host.prior_files import DENOISERS, load_denoiser, load_photo_prior

CATEGORY = "posterior/priors"
#: CONDITIONING without a prompt
UNCONDITIONAL = [[None, {}]]


class PhotoPriorNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorPhotoPrior",
            display_name="Embedded Photo Prior",
            category=CATEGORY,
            description="A small photo model that comes with the pack. It works on pixels, needs no VAE and no prompt, and "
            "knows texture, not objects: for scratches, blur, noise and missing pixels.",
            outputs=[io.Model.Output("model", display_name="model")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(load_photo_prior())


class LoadDenoiserNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorLoadDenoiser",
            display_name="Load Denoiser Prior",
            category=CATEGORY,
            description=f"A published Gaussian denoiser (FFDNet) from the folder models/{DENOISERS}, as a model on pixels.",
            inputs=[
                io.Combo.Input(
                    "file", options=folder_paths.get_filename_list(DENOISERS),
                    tooltip=f"A file in models/{DENOISERS}, for example ffdnet_color.pth.",
                ),
            ],
            outputs=[io.Model.Output("model", display_name="model")],
        )  # fmt: skip

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        return io.NodeOutput(load_denoiser(file))


class NoiseLevelExpertsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorNoiseLevelExperts",
            display_name="Noise-Level Experts",
            category=CATEGORY,
            description="One model out of two: a diffusion model where there is much noise, a denoiser where there is "
            "little.",
            inputs=[
                io.Model.Input("high", tooltip="The model for high noise, for example the Embedded Photo Prior."),
                io.Model.Input("low", tooltip="The model for low noise, for example a denoiser. Also on pixels."),
                io.Float.Input(
                    "threshold", default=0.5, min=0.001, max=100.0, step=0.01,
                    tooltip="Noise level (sigma, in the models' unit) where they change over. FFDNet is good up to 0.55. "
                    "Start with 0.5.",
                ),
                io.Float.Input(
                    "width", default=0.1, min=0.0, max=1.0, step=0.01,
                    tooltip="How soft the change is, as a share of the threshold; in between both models run. Start with "
                    "0.1.",
                ),
            ],
            outputs=[io.Model.Output("model", display_name="model")],
        )  # fmt: skip

    @classmethod
    def execute(cls, high, low, threshold, width) -> io.NodeOutput:
        return io.NodeOutput(join_experts(high, low, threshold, width))


class UnconditionalNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorUnconditional",
            display_name="Unconditional (No Prompt)",
            category=CATEGORY,
            description="Conditioning for models that take no prompt, such as the Embedded Photo Prior. Models trained "
            "with text want an empty CLIP Text Encode instead.",
            outputs=[io.Conditioning.Output("conditioning", display_name="conditioning")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(UNCONDITIONAL)


NODES = [PhotoPriorNode, LoadDenoiserNode, NoiseLevelExpertsNode, UnconditionalNode]
