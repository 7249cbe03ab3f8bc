"""Langevin sampling at falling noise levels.

One Langevin step of relative size rho leaves p_t nearly alone (Roberts and Tweedie 1996) and mixes inside it:

    x += rho sigma_t^2 score + sqrt(2 rho) sigma_t z,    sigma_t^2 score = alpha_t x0_hat(y) - x

    annealed Langevin      n steps at each level (Song and Ermon 2019, https://arxiv.org/abs/1907.05600), whose state is
                           carried to the next level as it is, as x_t / alpha_t; made for scores like Score-ALD's
    predictor-corrector    a DDIM step to the next level, then n steps there of size
                           rho sigma_t^2 = 2 (snr norm(z) / norm(score))^2 (Song et al. 2021, algorithms 4 and 5,
                           https://arxiv.org/abs/2011.13456), the norms per sample instead of over the batch

Both end with a denoising step to the last level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..algebra.norms import sample_norm
from ..algebra.streams import standard_normal
from ..diffusion.level import Level
from ..guidance.state import Estimate
from .ddim import fresh_noise

Model = Callable[..., Estimate]
Callback = Callable[[int, Tensor, Tensor], None]


def langevin_step(x: Tensor, t: Level, estimate: Estimate, size: float | Tensor, z: Tensor) -> Tensor:
    """One step of relative size rho = `size`, a number or one per sample."""
    x0, shift, _ = estimate
    return x + size * (t.alpha * x0 - x) + (2 * size) ** 0.5 * t.sigma * z + t.norm * shift


def annealed_langevin(
    model: Model,
    x: Tensor,
    levels: Sequence[Level],
    corrections: int = 5,
    size: float = 0.1,
    generators: list[torch.Generator] | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """x at the last level after `corrections` Langevin steps at each of the others. Arguments as in `guided_ddim`.

    Args:
        corrections: steps at each level, >= 1.
        size: rho, in (0, 1); the stationary variance is off by a factor of up to 1 / (1 - rho / 2).
    """
    steps = len(levels) - 1
    for i, (t, s) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        for _ in range(corrections):
            estimate = model(x, t, s, i / steps, i)
            x = langevin_step(x, t, estimate, size, standard_normal(x, generators))
        if callback is not None:
            callback(i, x, estimate.x0)
        if i == steps - 1:
            x = s.alpha * model(x, t, s, i / steps, i).x0 + s.sigma * standard_normal(x, generators)
        elif t.alpha == 0:  # a state without a picture has nothing to carry
            x = s.alpha * estimate.x0 + s.sigma * standard_normal(x, generators)
        else:
            x = x * (s.alpha / t.alpha)
    return x


def predictor_corrector(
    model: Model,
    x: Tensor,
    levels: Sequence[Level],
    corrections: int = 1,
    snr: float = 0.16,
    amount: float = 1.0,
    generators: list[torch.Generator] | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """x at the last level; 1 + `corrections` model calls a step. Arguments as in `guided_ddim`.

    Args:
        corrections: Langevin steps after each predictor step, but for the last.
        snr: their signal-to-noise ratio, > 0. The rule relies on norms that hardly vary, as those of pictures.
        amount: eta of the predictor.
    """
    steps = len(levels) - 1
    for i, (t, s) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        x0, shift, _ = model(x, t, s, i / steps, i)
        if callback is not None:
            callback(i, x, x0)
        v = fresh_noise(t, s, amount)
        x = s.alpha * x0 + math.sqrt(s.sigma**2 - v**2) / t.sigma * (x - t.alpha * x0) + s.norm * shift
        if v > 0:
            x = x + v * standard_normal(x, generators)
        for _ in range(corrections if s.sigma else 0):
            estimate, z = model(x, s, s, i / steps, i), standard_normal(x, generators)
            size = 2 * (snr * s.sigma * sample_norm(z) / sample_norm(s.alpha * estimate.x0 - x)) ** 2
            x = langevin_step(x, s, estimate, size.clamp(max=1.0), z)
    return x
