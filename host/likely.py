"""How likely pictures are under a loaded MODEL: its log-density, from the errors that it makes at many noise levels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from ..samplers.likelihood import LogLikelihood
from .sampler import GuidedSampler
from .solve import on_schedule, run_sampler
from .spaces.vae import is_latent_vae, require_numbers

#: sigma_t / alpha_t between which the errors are looked at, in the model's unit, as far as the model goes. Below it a
#: network knows as little of a picture as its 8 bits do
HIGH, LOW = 100.0, 0.01


@dataclass(frozen=True)
class Likely:
    """Of each picture, `B`, float64.

    Args:
        bits: per number of the picture or latent, in steps of 1 / 127.5 of the model's unit.
        error: standard error of that.
        numbers: how many each picture or latent has.
    """

    bits: Tensor
    error: Tensor
    numbers: int


def how_likely(patcher, images: Tensor, levels: int, draws: int, positive, seed: int, vae=None) -> Likely:
    """How likely pictures are.

    Args:
        images: `B C H W` in [0, 1].
        levels: noise levels, >= 2.
        draws: noises at each, >= 2.

    Raises:
        Refusal: for a latent model without a VAE.
    """
    if is_latent_vae(vae):
        latent = vae.encode(images.movedim(1, -1))
        require_numbers(latent, images)
    elif patcher.get_model_object("latent_format").latent_channels != 3:
        raise Refusal("This model works on latents; connect its VAE.")
    else:
        latent = 2 * images - 1
    record: dict = {}
    sampler = GuidedSampler((), LogLikelihood(draws), record)
    run_sampler(patcher, sampler, _sigmas(patcher, levels), latent, positive, positive, 1.0, seed, noisy=False)
    numbers = latent[0].numel()
    error = record["standard error"] / (numbers * torch.log(torch.tensor(2.0)))
    return Likely(record["bits per number"], error, numbers)


def _sigmas(patcher, levels: int) -> Tensor:
    sampling = patcher.get_model_object("model_sampling")
    low, high = torch.as_tensor(float(sampling.sigma_min)), torch.as_tensor(float(sampling.sigma_max))
    flow = on_schedule(patcher, torch.ones(1)).item() != 1
    if flow:
        low, high = (sigma / (1 - sigma).clamp_min(1e-6) for sigma in (low, high))
    start, end = high.clamp(max=HIGH), low.clamp(min=LOW)
    ladder = torch.logspace(start.log10().item(), end.log10().item(), levels)
    return on_schedule(patcher, torch.cat([ladder, torch.zeros(1)]))
