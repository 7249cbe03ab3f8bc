"""Prior nodes: models that know what pictures look like."""

from __future__ import annotations

import folder_paths
import torch
from comfy_api.latest import io

from ..algebra.refusal import Refusal
from ..host.models.pixel_model import join_experts, needs_prompt
from ..host.models.prior_files import (
    CHECKPOINTS,
    DENOISERS,
    SCHEDULES,
    load_checkpoint,
    load_denoiser,
    load_digits_enlarger,
    load_digits_prior,
    load_photo_prior,
    load_supervised_prior,
)
from ..host.models.tiled import tiled
from .search import found_by
from .sockets import Measurement, hole, planes

CATEGORY = "posterior/priors"
#: CONDITIONING without a prompt
UNCONDITIONAL = [[None, {}]]


def prompts(model, positive, negative=None, cfg: float = 1.0) -> tuple[list, list]:
    """Positive and negative CONDITIONING of a run. Models that work with prompts have no answer without one.

    Raises:
        Refusal: where such a model lacks one that `cfg` asks for.
    """
    if not needs_prompt(model.model):
        return positive or UNCONDITIONAL, negative or UNCONDITIONAL
    if not positive:
        raise Refusal("This model needs a prompt; connect CLIP Text Encode to positive (its text may be empty).")
    if not negative and cfg != 1:
        raise Refusal(
            f"With a cfg of {cfg:g} this model needs a negative prompt as well; connect CLIP Text Encode to negative (its text "
            "may be empty), or set cfg to 1."
        )
    return positive, negative or positive  # at a cfg of 1 the negative one is not looked at


class PhotoPriorNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorPhotoPrior",
            display_name="Embedded Photo Prior",
            category=CATEGORY,
            description="A small photo model that comes with the pack. It works on pixels, needs no VAE and no prompt, "
            "and knows texture, not objects: for scratches, blur, noise and missing pixels.",
            outputs=[io.Model.Output("model", display_name="model")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(load_photo_prior())


class DigitsPriorNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorDigitsPrior",
            display_name="Embedded Digits Prior",
            category=CATEGORY,
            description="A small model of handwritten digits that comes with the pack, for 32 x 32 pictures. It knows "
            "whole digits, so it can fill large holes: made for learning and for tests.",
            inputs=[
                io.Combo.Input(
                    "form", options=["diffusion", "flow", "few steps"], default="diffusion", optional=True,
                    tooltip="diffusion: as it was trained. flow: the same as a flow model, such as SD3 and Flux are. few steps: "
                    "a flow model distilled to 4 to 8 steps, as Turbo and schnell are. Start with diffusion.",
                ),
            ],
            outputs=[io.Model.Output("model", display_name="model")],
        )  # fmt: skip

    @classmethod
    def execute(cls, form="diffusion") -> io.NodeOutput:
        return io.NodeOutput(load_digits_prior(form))


class LoadDenoiserNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorLoadDenoiser",
            display_name="Load Denoiser Prior",
            category=CATEGORY,
            description=f"A published Gaussian denoiser (FFDNet, DRUNet or DnCNN, colour or gray) from the folder "
            f"models/{DENOISERS}, as a model on pixels.",
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
                    tooltip="Noise level (sigma, in the models' unit) where they change over. FFDNet is good up to "
                    "0.55. Start with 0.5.",
                ),
                io.Float.Input(
                    "width", default=0.1, min=0.0, max=1.0, step=0.01,
                    tooltip="How soft the change is, as a share of the threshold; in between both models run. Start "
                    "with 0.1.",
                ),
            ],
            outputs=[io.Model.Output("model", display_name="model")],
        )  # fmt: skip

    @classmethod
    def execute(cls, high, low, threshold, width) -> io.NodeOutput:
        return io.NodeOutput(join_experts(high, low, threshold, width))


class TiledModelNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorTiledModel",
            display_name="Tiled Model (Large Pictures)",
            **found_by("PosteriorTiledModel"),
            category=CATEGORY,
            description="A model for pictures larger than it was made for: it looks in overlapping windows, and guidance sees "
            "the whole, so that no seam forms. Memory is that of one window.",
            inputs=[
                io.Model.Input("model", tooltip="The model that looks."),
                io.Int.Input(
                    "window", default=0, min=0, max=8192, step=8,
                    tooltip="Side of a window, in pixels of the picture. 0 is 256 for models on pixels and 1024 for those "
                    "with a VAE. Start with 0.",
                ),
                io.Float.Input(
                    "overlap", default=0.25, min=0.0, max=0.5, step=0.05,
                    tooltip="Share of a window that neighbours have in common, 0 to 0.5. More is smoother and takes longer. "
                    "Start with 0.25.",
                ),
                io.Mask.Input(
                    "mask", optional=True,
                    tooltip="Where the picture is to be changed (white): only windows that touch it are computed. For damage "
                    "that leaves the other pixels as they are.",
                ),
            ],
            outputs=[io.Model.Output("tiled_model", display_name="model")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, window, overlap, mask=None) -> io.NodeOutput:
        return io.NodeOutput(tiled(model, window, overlap, None if mask is None else hole(mask)))


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


class LoadPixelCheckpointNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorLoadPixelCheckpoint",
            display_name="Load Pixel Checkpoint",
            category=CATEGORY,
            description="A published diffusion model that works on pixels: guided-diffusion (ADM: OpenAI's, DPS's FFHQ "
            f"...) or diffusers' UNet2DModel with its config.json, from the folder models/{CHECKPOINTS}.",
            inputs=[
                io.Combo.Input(
                    "file", options=folder_paths.get_filename_list(CHECKPOINTS),
                    tooltip=f"A file in models/{CHECKPOINTS}. A model of diffusers needs its config.json beside it.",
                ),
                io.Combo.Input(
                    "schedule", options=list(SCHEDULES), default="linear",
                    tooltip="Noise schedule of the training. linear for most models, cosine for OpenAI's 64 x 64 ones. "
                    "Not used where a scheduler_config.json lies beside the file. Start with linear.",
                ),
                io.Int.Input(
                    "class_label", default=0, min=0, max=100_000,
                    tooltip="Which class to make (its number), for class-conditional models; others do not use it.",
                ),
                io.Int.Input(
                    "head_channels", default=64, min=1, max=4096,
                    tooltip="Channels of one attention head, for guided-diffusion files, which do not tell. 64 for "
                    "most.",
                ),
                io.Int.Input(
                    "heads", default=0, min=0, max=64,
                    tooltip="Number of attention heads instead, where it is the same everywhere: 4 for OpenAI's 128 x "
                    "128 model. 0 goes by head_channels. Start with 0.",
                ),
                io.Combo.Input(
                    "attention_order", options=["original", "new"], default="original",
                    tooltip="How guided-diffusion files store attention. new for OpenAI's 64 x 64 model. Start with "
                    "original.",
                ),
            ],
            outputs=[io.Model.Output("model", display_name="model")],
        )  # fmt: skip

    @classmethod
    def execute(cls, file, schedule, class_label, head_channels, heads, attention_order) -> io.NodeOutput:
        attention = {"head_channels": head_channels, "heads": heads, "interleaved": attention_order == "original"}
        return io.NodeOutput(load_checkpoint(file, schedule, class_label, **attention))


class DigitsEnlargerNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorDigitsEnlarger",
            display_name="Digits Enlarger (Supervised)",
            category=CATEGORY,
            description="A model of digits that was trained to enlarge 8 x 8 pictures four times and needs no guidance: "
            "the supervised way, to compare with.",
            inputs=[
                io.Image.Input(
                    "small",
                    tooltip="A digit of 8 x 8 pixels: means of 4 x 4 pixels, with a noise of 0.05 in brightness.",
                ),
            ],
            outputs=[io.Model.Output("model", display_name="model")],
        )

    @classmethod
    def execute(cls, small) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(load_digits_enlarger(planes(small)))


class LoadSupervisedPriorNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorLoadSupervisedPrior",
            display_name="Load Supervised Prior",
            category=CATEGORY,
            description="A model of your own that was trained for one kind of damage (priors/train.py --operator), told "
            "what was seen. It needs no guidance: one model call gives the mean, sampling gives a sample.",
            inputs=[
                io.Combo.Input(
                    "file", options=folder_paths.get_filename_list(CHECKPOINTS),
                    tooltip=f"A file in models/{CHECKPOINTS} that priors/train.py --operator has made.",
                ),
                Measurement.Input("measurement", tooltip="What was seen, of the operator that the model was trained for."),
            ],
            outputs=[io.Model.Output("model", display_name="model")],
        )  # fmt: skip

    @classmethod
    def execute(cls, file, measurement) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(load_supervised_prior(file, measurement))


NODES = [
    PhotoPriorNode, LoadDenoiserNode, NoiseLevelExpertsNode, TiledModelNode, UnconditionalNode, DigitsPriorNode,
    LoadPixelCheckpointNode, DigitsEnlargerNode, LoadSupervisedPriorNode,
]  # fmt: skip
