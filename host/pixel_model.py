"""Pixel-space networks as ordinary MODEL objects of the host."""

from __future__ import annotations

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.patcher_extension
import comfy.supported_models_base
import torch
from torch import Tensor, nn


class Pixels(comfy.latent_formats.LatentFormat):
    """The picture itself, in [-1, 1], is the latent."""

    latent_channels = 3

    def __init__(self):
        self.latent_rgb_factors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


class DenoiserSampling(comfy.model_sampling.ModelSamplingContinuousEDM, comfy.model_sampling.IMG_TO_IMG):
    """For networks that give x0_hat from x_t itself: nothing is scaled before the call or after it."""


class _PixelConfig(comfy.supported_models_base.BASE):
    latent_format = Pixels
    unet_extra_config: dict = {}
    memory_usage_factor = 1.0
    supported_inference_dtypes = [torch.float32]


def pixel_model(
    network: type[nn.Module], config: dict, state_dict: dict[str, Tensor], sampling: dict, denoiser: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """A MODEL on [-1, 1] pictures.

    Args:
        network: built as `network(**config, dtype=, device=, operations=)`.
        config: its architecture.
        state_dict: its weights, kept in the precision in which they compute (float32).
        sampling: `sigma_min`, `sigma_max` and `sigma_data` of the host's continuous EDM sampling, [-1, 1] unit.
        denoiser: the network gives x0_hat itself instead of EDM's F.
    """
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    settings = _PixelConfig(dict(config))
    settings.sampling_settings = dict(sampling)
    settings.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(settings, comfy.model_base.ModelType.EDM, offload_device, network)
    if denoiser:
        model.model_sampling = DenoiserSampling(settings)
    model.diffusion_model.load_state_dict(state_dict)
    return comfy.model_patcher.ModelPatcher(model, load_device=load_device, offload_device=offload_device)


def join_experts(high, low, threshold: float, width: float):
    """One MODEL out of two by noise level: `high` above the threshold, `low` below it.

    Around the threshold the two predictions are mixed, with a weight that goes linearly in log sigma over a factor
    of 1 + width to both sides; only there are both networks run.

    Args:
        high, low: MODELs on the same coordinates.
        threshold: sigma of the hand-over, model unit.
        width: relative half-width of the hand-over; 0 is a switch.
    """
    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    clone = high.clone()
    clone.set_additional_models("posterior_expert", [low])
    span = torch.log1p(torch.tensor(float(width))).item()

    def apply_model(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        share = (t.max() / threshold).log().item()
        share = float(share > 0) if span == 0 else min(max((share / span + 1) / 2, 0.0), 1.0)
        above = below = 0.0
        if share > 0:
            above = executor(x, t, c_concat, c_crossattn, control, transformer_options or {}, **kwargs)
        if share < 1:
            below = low.model.apply_model(x, t, transformer_options=transformer_options or {})
        return share * above + (1 - share) * below

    clone.add_wrapper_with_key(kind, "posterior_expert", apply_model)
    return clone
