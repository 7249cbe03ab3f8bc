"""The whole way from a measurement to a picture with the host's own parts: guider, noise, SIGMAS, SAMPLER."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import latent_preview
import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from ..measurement.measurement import Measurement
from ..measurement.smooth import smooth_start
from .run import Guide
from .spaces.space import schedule_of
from .spaces.vae import is_latent_vae, latent_size, padded, picture_ratio, require_numbers

STARTS = ("noise", "smooth", "back-projection")


def start_picture(measurement: Measurement, start: str) -> Tensor:
    """The smooth inverse or A^+ y (without what the noise drowns) as a picture, `B C H W` in [0, 1].

    Raises:
        Refusal: when the operator has no such inverse.
    """
    if start == "back-projection":
        return measurement.inverse(measurement.y).clamp(0, 1)
    if not measurement.operator.linear:
        raise Refusal(f"{measurement.operator.label} has no smooth inverse; start from noise instead.")
    return smooth_start(measurement).clamp(0, 1)


def start_latent(measurement: Measurement, start: str, batch: int, vae: Any = None) -> Tensor:
    """LATENT samples to start from: empty ones for noise, else a first picture (encoded where there is a VAE).

    Args:
        batch: how many for a measurement of one picture; one of several pictures has one for each.
    """
    channels, height, width = measurement.image_shape
    batch = len(measurement.y) if len(measurement.y) > 1 else batch
    if start == "noise":
        if not is_latent_vae(vae):
            return torch.zeros(batch, channels, height, width)
        return torch.zeros(batch, vae.latent_channels, *latent_size(vae, height, width))
    image = start_picture(measurement, start)
    image = image.expand(batch, -1, -1, -1) if image.shape[0] == 1 else image
    if not is_latent_vae(vae):
        return 2 * image - 1
    whole = padded(image, *(picture_ratio(vae) * side for side in latent_size(vae, height, width)))
    latent = vae.encode(whole.movedim(1, -1))
    require_numbers(latent, whole, "encodes")
    return latent


def can_restore(guides: Sequence[Guide], vae: Any = None) -> bool:
    """Whether annealed restoration works: linear measurements of pixels, methods that leave the step alone."""
    blocks = [guide.block for guide in guides]
    return not is_latent_vae(vae) and all(b.measurement.operator.linear and not b.owns_transition for b in blocks)


def restoration_sigmas(start: float, end: float, steps: int) -> Tensor:
    """`steps` noise levels from start down to end in equal ratios, and the final 0."""
    return torch.cat([torch.logspace(torch.tensor(start).log10(), torch.tensor(end).log10(), steps), torch.zeros(1)])


def restoration_sigmas_for(measurement: Measurement, steps: int) -> Tensor:
    """A ladder that fits the noise, [-1, 1] unit: it ends at half the measurement's own level.

    There the proximal step still trusts the data more than the prior by four to one, so that the picture neither
    fits the noise nor misses the data. It starts where a denoiser can bridge a scratch.
    """
    level = float(torch.as_tensor(measurement.noise.deviation(measurement.y)).double().mean())
    end = min(max(level, 0.01), 1.0)  # 2 sigma_y / 2
    return restoration_sigmas(max(0.4, 2 * end), end, steps)


def sampling_sigmas(patcher, steps: int) -> Tensor:
    """SIGMAS from pure noise: Karras' spacing for exploding models, the host's simple one for flow models."""
    model_sampling = patcher.get_model_object("model_sampling")
    flow = schedule_of(model_sampling).family == "flow"
    return comfy.samplers.calculate_sigmas(model_sampling, "simple" if flow else "karras", steps)


def run_sampler(patcher, sampler, sigmas: Tensor, latent: Tensor, positive, negative, cfg, seed: int, noisy=True):
    """Samples as SamplerCustom does, with previews and progress; gives LATENT samples on the host's device."""
    guider = comfy.samplers.CFGGuider(patcher)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    latent = comfy.sample.fix_empty_latent_channels(patcher, latent)
    noise = comfy.sample.prepare_noise(latent, seed) if noisy else torch.zeros_like(latent)
    callback = latent_preview.prepare_callback(patcher, len(sigmas) - 1)
    samples = guider.sample(noise, latent, sampler, sigmas, callback=callback, disable_pbar=False, seed=seed)
    return samples.to(comfy.model_management.intermediate_device())


def decode(samples: Tensor, image_shape: tuple[int, int, int], vae: Any = None) -> Tensor:
    """LATENT samples as pictures `B C H W` of the given (C, H, W), in [0, 1]."""
    if not is_latent_vae(vae):
        return ((samples + 1) / 2).clamp(0, 1)
    images = vae.decode(samples).movedim(-1, 1)[..., : image_shape[1], : image_shape[2]]
    require_numbers(images, samples)
    return images
