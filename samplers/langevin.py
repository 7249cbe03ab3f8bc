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
from dataclasses import dataclass

from torch import Tensor

from ..algebra.norms import sample_norm
from ..diffusion.level import Level
from ..diffusion.run import Run
from ..diffusion.state import Estimate
from .base import Sampler
from .ddim import fresh_noise


def langevin_step(x: Tensor, t: Level, estimate: Estimate, size: float | Tensor, z: Tensor) -> Tensor:
    """One step of relative size rho = `size`, a number or one per sample."""
    x0, shift, _ = estimate
    return x + size * (t.alpha * x0 - x) + (2 * size) ** 0.5 * t.sigma * z + t.vp_norm * shift


@dataclass(frozen=True)
class AnnealedLangevin(Sampler):
    """Langevin steps at each level but the last.

    Args:
        corrections: steps at each level, >= 1.
        size: rho, in (0, 1); the stationary variance is off by a factor of up to 1 / (1 - rho / 2).
    """

    corrections: int = 5
    size: float = 0.1

    label = "Annealed Langevin"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        for i, t, s in run.walk:
            for _ in range(self.corrections):
                estimate = run.guided(x, t, s, i)
                x = langevin_step(x, t, estimate, self.size, run.draw.normal(x))
            run.report(i, x, estimate.x0, t)
            if i == run.steps - 1:
                x = s.alpha * run.guided(x, t, s, i).x0 + s.sigma * run.draw.normal(x)
            elif t.alpha == 0:  # a state without a picture has nothing to carry
                x = s.alpha * estimate.x0 + s.sigma * run.draw.normal(x)
            else:
                x = x * (s.alpha / t.alpha)
        return x


@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """1 + `corrections` model calls a step.

    Args:
        corrections: Langevin steps after each predictor step, but for the last.
        snr: their signal-to-noise ratio, > 0. The rule relies on norms that hardly vary, as those of pictures.
        amount: eta of the predictor.
    """

    corrections: int = 1
    snr: float = 0.16
    amount: float = 1.0

    label = "Predictor-corrector"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        for i, t, s in run.walk:
            x0, shift, _ = run.guided(x, t, s, i)
            run.report(i, x, x0, t)
            v = fresh_noise(t, s, self.amount)
            x = s.alpha * x0 + math.sqrt(s.sigma**2 - v**2) / t.sigma * (x - t.alpha * x0) + s.vp_norm * shift
            if v > 0:
                x = x + v * run.draw.normal(x)
            for _ in range(self.corrections if s.sigma else 0):
                estimate, z = run.guided(x, s, s, i), run.draw.normal(x)
                size = 2 * (self.snr * s.sigma * sample_norm(z) / sample_norm(s.alpha * estimate.x0 - x)) ** 2
                x = langevin_step(x, s, estimate, size.clamp(max=1.0), z)
        return x
