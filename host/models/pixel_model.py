"""Pixel-space networks as ordinary MODEL objects of the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.patcher_extension
import comfy.supported_models_base
import torch
from torch import Tensor, nn

from ...algebra.refusal import Refusal
from ...priors.analytic import AnalyticNetwork


class Pixels(comfy.latent_formats.LatentFormat):
    """The picture itself, in [-1, 1], is the latent."""

    latent_channels = 3

    def __init__(self):
        self.latent_rgb_factors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


class DenoiserSampling(comfy.model_sampling.ModelSamplingContinuousEDM, comfy.model_sampling.IMG_TO_IMG):
    """For networks that give x0_hat from x_t itself: nothing is scaled before the call or after it."""


#: what a network predicts: EDM's F, x0_hat itself, the noise, v, or a flow's velocity
Prediction = Literal["edm", "denoised", "epsilon", "v", "flow"]
_TYPES = {
    "edm": comfy.model_base.ModelType.EDM, "denoised": comfy.model_base.ModelType.EDM,
    "epsilon": comfy.model_base.ModelType.EPS, "v": comfy.model_base.ModelType.V_PREDICTION,
    "flow": comfy.model_base.ModelType.FLOW,
}  # fmt: skip


class _PixelConfig(comfy.supported_models_base.BASE):
    latent_format = Pixels
    unet_extra_config: dict = {}


def pixel_model(
    network: Callable[..., nn.Module],
    config: dict,
    state_dict: dict[str, Tensor],
    sampling: dict,
    prediction: Prediction = "edm",
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    memory_usage_factor: float = 0.01,
) -> comfy.model_patcher.ModelPatcher:
    """A MODEL on [-1, 1] pictures.

    Args:
        network: built as `network(**config, dtype=, device=, operations=)`.
        config: its architecture.
        state_dict: its weights.
        sampling: the host's settings of the noise levels, [-1, 1] unit: `sigma_min`, `sigma_max`, `sigma_data` of its
            continuous EDM sampling; `beta_schedule`, `linear_start`, `linear_end`, `timesteps` for epsilon and v; for
            a flow `shift` and `multiplier`, by which the network's clock is faster than the time in [0, 1].
        prediction: what the network gives.
        dtypes: precisions in which it may compute, the best first; the host chooses.
        memory_usage_factor: the host's measure of memory per pixel. SD1.5, whose pixels are 8 x 8 of ours, has 1; our
            small networks need at most 0.004.
    """
    manager = comfy.model_management
    load_device, offload_device = manager.get_torch_device(), manager.unet_offload_device()
    settings = _PixelConfig(dict(config))
    settings.sampling_settings, settings.memory_usage_factor = dict(sampling), memory_usage_factor
    dtype = torch.float32
    if tuple(dtypes) != (dtype,):
        dtype = manager.unet_dtype(load_device, sum(w.numel() for w in state_dict.values()), list(dtypes))
    settings.set_inference_dtype(dtype, manager.unet_manual_cast(dtype, load_device, list(dtypes)))
    model = comfy.model_base.BaseModel(settings, _TYPES[prediction], offload_device, network)
    if prediction == "denoised":
        model.model_sampling = DenoiserSampling(settings)
    model.diffusion_model.load_state_dict(state_dict)
    return comfy.model_patcher.ModelPatcher(model, load_device=load_device, offload_device=offload_device)


def needs_prompt(model) -> bool:
    """Whether a host's `BaseModel` has an input for a prompt, without which it cannot run."""
    config = model.model_config
    settings = config.unet_config
    prompted = "image_model" in settings or bool(settings.get("context_dim") or settings.get("adm_in_channels"))
    return prompted and not isinstance(config, _PixelConfig)


def on_squares(model) -> bool:
    """Whether a host's `BaseModel` is a network that was trained on small squares of pictures, unlike closed forms."""
    return isinstance(model.model_config, _PixelConfig) and not isinstance(model.diffusion_model, AnalyticNetwork)


def require_prompt(model, conds: dict[str, list[dict]]) -> None:
    """Refuses a UNet with cross-attention whose processed conditions hold nothing to attend to."""
    if model.model_config.unet_config.get("context_dim") and needs_prompt(model):
        if any("c_crossattn" not in cond.get("model_conds", {}) for cond in conds.get("positive") or ()):
            raise Refusal("This model needs a prompt; connect CLIP Text Encode to positive (its text may be empty).")


def ready_model(network: nn.Module) -> comfy.model_patcher.ModelPatcher:
    """A MODEL out of a network that is ready as it is and gives x0_hat from x_t in [-1, 1] plus noise."""
    sampling = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 1.0}
    return pixel_model(lambda **_: network, {}, network.state_dict(), sampling, "denoised")


_EXPERT = "posterior_expert"


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
    span = math.log1p(width)

    def apply_model(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        options = transformer_options or {}
        share = math.log(float(t.max()) / threshold)
        share = float(share > 0) if span == 0 else min(max((share / span + 1) / 2, 0.0), 1.0)
        above = below = 0.0
        if share > 0:
            above = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        if share < 1:
            below = low.model.apply_model(x, t, transformer_options=_options_of(low, options))
        return share * above + (1 - share) * below

    clone = high.clone()
    # where `high` was joined before, the later join decides first
    wrappers = [apply_model, *clone.get_wrappers(kind, _EXPERT)]
    clone.remove_wrappers_with_key(kind, _EXPERT)
    for wrapper in wrappers:
        clone.add_wrapper_with_key(kind, _EXPERT, wrapper)
    clone.set_additional_models(_EXPERT, [low, *clone.get_additional_models_with_key(_EXPERT)])
    return clone


def _options_of(patcher, running: dict) -> dict:
    """The transformer options of another MODEL in a run: its own patches and wrappers, not those of the run's MODEL."""
    shared = {key: value for key, value in running.items() if key not in ("patches", "patches_replace")}
    return {**patcher.model_options.get("transformer_options", {}), **shared, "wrappers": patcher.wrappers}
