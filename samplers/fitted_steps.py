"""Steps made by fitting a Gaussian: what MGPS and DCPS share.

Between a state x_t and a less noisy x_l the forward process is a Gaussian bridge. With alpha' = alpha_s / alpha_l and
sigma'^2 = sigma_s^2 - alpha'^2 sigma_l^2 for s, and the same for t, q(x_s given x_t, x_l) is an ancestral step with
those, for r = alpha'_t sigma'_s / (alpha'_s sigma'_t)

    x_s ~ N((sigma'_s / sigma'_t) r x_t + alpha'_s (1 - r^2) x_l,  sigma'_s^2 (1 - r^2))

A step guided by log p(y given x) draws from N(m, v), v a number for each coordinate, that fits the bridge q and y:

    min over (m, log v)   E[-log p(y given m + v^(1/2) n)] + KL(N(m, v), q)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ..algebra.norms import sample_norm
from ..diffusion.level import Level
from ..diffusion.state import Prior
from ..measurement.measurement import Measurement
from .likelihood_chain import evidence

#: the level of pictures
CLEAN = Level(1.0, 0.0)


def bridge(t: Level, low: Level, s: Level) -> tuple[float, float, float]:
    """(a, b, v) of q(x_s given x_t, x_low) = N(a x_t + b x_low, v^2 I); s lies between them."""
    alpha, alpha_t = s.alpha / low.alpha, t.alpha / low.alpha
    sigma, sigma_t = (
        math.sqrt(max(level.sigma**2 - (ratio * low.sigma) ** 2, 0.0)) for level, ratio in ((s, alpha), (t, alpha_t))
    )
    r = alpha_t * sigma / (alpha * sigma_t)
    return sigma / sigma_t * r, alpha * (1 - r**2), sigma * math.sqrt(max(1 - r**2, 0.0))


def guided_by(prior: Prior, measurement: Measurement, x: Tensor, t: Level, low: Level) -> tuple[Tensor, Tensor]:
    """x0_hat at x_t, and grad_{x_t} log p(y given x_low) at x_low = E[x_low|x_t]; low is less noisy than t.

    The potential of a noisy level, in variance-preserving coordinates, is N(alpha y; A x_low, sigma_y^2), that is
    alpha^2 log p(y given x_low / alpha).
    """
    x0, vjp = prior.linearise(x, t)
    a, b, _ = bridge(t, CLEAN, low)
    gradient = potential(measurement, a * x + b * x0, low)
    return x0, a * gradient + vjp(b * gradient, last=True)


def potential(measurement: Measurement, x: Tensor, low: Level) -> Tensor:
    """The gradient of that potential at x_low itself."""
    return low.alpha / low.vp_norm**2 * evidence(measurement, x / low.alpha)[1]


@dataclass
class Adam:
    """Kingma and Ba 2015, https://arxiv.org/abs/1412.6980; `rate` is about the change of each number in a step."""

    rate: float
    means: list = field(default_factory=list)
    count: int = 0

    def __call__(self, gradients: list[Tensor]) -> list[Tensor]:
        self.count += 1
        before = self.means or [(0.0, 0.0)] * len(gradients)
        pairs = zip(before, gradients, strict=True)
        self.means = [(0.9 * a + 0.1 * g, 0.999 * b + 0.001 * g**2) for (a, b), g in pairs]
        first, second = 1 - 0.9**self.count, 1 - 0.999**self.count
        return [self.rate * (a / first) / ((b / second).sqrt() + 1e-8) for a, b in self.means]


@dataclass
class Normalised:
    """Steps of one length along the gradient, each sample for itself."""

    rate: float

    def __call__(self, gradients: list[Tensor]) -> list[Tensor]:
        return [self.rate * g / sample_norm(g) for g in gradients]


def fitted(
    ascent: Callable[[Tensor], Tensor], mean: Tensor, deviation: float, unit: float, steps: int,
    update: Adam | Normalised, normal: Callable[[Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """A draw of the fitted N(m, v), from N(mean, deviation^2) on.

    Args:
        ascent: x to grad log p(y given x); called once a step.
        unit: what one unit of the published step is in x.
        normal: fresh noise like a tensor.
    """
    m, log_v = 0.0 * mean, 0.0 * mean  # from the bridge's, m in published units and v in deviation^2
    for _ in range(steps):
        n, spread = normal(mean), deviation * (log_v / 2).exp()
        g = ascent(mean + unit * m + spread * n)
        gradients = [unit**2 * m / deviation**2 - unit * g, (log_v.exp() - 1 - g * n * spread) / 2]
        m, log_v = (value - change for value, change in zip((m, log_v), update(gradients), strict=True))
    return mean + unit * m + deviation * (log_v / 2).exp() * normal(mean)
