"""Plug-and-play Monte Carlo, PMC (Sun et al. 2024), https://arxiv.org/abs/2310.10835: annealed Langevin on pictures.

The state is a picture, not a noisy x_t. With S(x) = (x0_hat - x) / sigma_bar^2, the score of pictures seen through
noise of the level (x0_hat from alpha_t x at sigma_t), and g = grad log p(y given x),

    RED    x += h (g + a S(x)) + sqrt(2 h) n
    PnP    x += h (g + a S(x + h g)) + sqrt(2 h) n

where a = max(temper sigma^2, 1), sigma = sigma_bar in the model's unit, lets the prior count more at first. At the end
a is 1, and as the last level and h fall the law tends to the posterior (the PnP order's as well). The step follows the
curvature, h = size / (L + a / sigma_bar^2), see `likelihood_chain`, or is the published constant, such as 1e-5 at
sigma_y = 0.01.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..diffusion.run import Run
from .base import Sampler
from .likelihood_chain import Curvature, evidence, with_noise

Order = Literal["RED", "PnP"]


@dataclass(frozen=True)
class PMC(Sampler):
    """`corrections` model calls at each level but the last, and one for the start.

    Args:
        order: where the score is taken, at the picture (RED) or after the step to the data (PnP).
        corrections: steps at each level, >= 1.
        temper: how much the prior counts at first, in 1 / the square of the model's unit, >= 0; the papers have 4444.
        size: h in units of 1 / (largest curvature), in (0, 2).
        rate: h itself in the square of the model's unit, as published; 0 follows the curvature.
    """

    order: Order = "RED"
    corrections: int = 10
    temper: float = 100.0
    size: float = 0.3
    rate: float = 0.0

    label = "PMC"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        measurement = with_noise(run.measurement)
        curvature = Curvature(measurement, run.draw)
        x = run.prior(x, run.levels[0])
        for i, t, _ in run.walk:
            a = max(self.temper * (t.scale * t.sigma_bar) ** 2, 1.0) / t.sigma_bar**2
            h = self.rate / t.scale**2 if self.rate else self.size / (curvature(x) + a)
            for _ in range(self.corrections):
                g = evidence(measurement, x)[1]
                z = x + h * g if self.order == "PnP" else x
                x0 = run.prior(t.alpha * z, t)
                x = x + h * (g + a * (x0 - z)) + (2 * h) ** 0.5 * run.draw.normal(x)
            run.report(i, t.alpha * x, x0, t)
        return x
