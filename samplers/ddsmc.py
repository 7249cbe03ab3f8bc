"""Decoupled diffusion sequential Monte Carlo, DDSMC (Kelvinius, Zhao and Lindsten 2025), https://arxiv.org/abs/2502.06379.

x_0 given x_t is taken as N(x0_hat, r_t^2 I), which a linear measurement turns into N(m, V) in the singular directions:

    V = r_t^2 sigma_y^2 / (s^2 r_t^2 + sigma_y^2)
    m = x0_hat + r_t^2 A^T (r_t^2 A A^T + sigma_y^2 I)^-1 (y - A x0_hat)
    psi_t(x_t) = N(y; A x0_hat, sigma_y^2 I + r_t^2 A A^T)

In exploding coordinates, with d = sigma_t^2 - sigma_s^2 and a = d / (eta sigma_s^2 + d), the model's step and the
proposal, a draw from N(m, V) noised, are

    p(x_s|x_t) = N(a x0_hat + (1 - a) x_t, a sigma_s^2),    q = N(a m + (1 - a) x_t, a sigma_s^2 - a^2 (r_t^2 - V))

eta = 1 is ancestral sampling, eta = 0 takes all noise anew as DAPS does. The paper has 0.5, whose steps do not add up
to the prior however small they are (a Gaussian loses a fifth of its variance); we start from 1. Where q would have less
than a quarter of the model's variance it has that. The last step is the draw from N(m, V) in the measured directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.streams import Streams
from ..diffusion.level import Level
from ..diffusion.run import Run
from ..diffusion.state import State
from ..measurement.measurement import Measurement
from .adapted import spectral
from .particles import Kernel, Look, ParticleSampler, Twist, inner

#: least share of the model's variance that a proposal has
FLOOR = 0.25


@dataclass(frozen=True)
class DDSMC(ParticleSampler):
    """For linear operators with singular values.

    Args:
        eta: 0 takes all noise of a step anew, 1 is ancestral.
        deviation: sqrt(c) of r_t^2 = c sigma_t^2 / (alpha_t^2 c + sigma_t^2), in the model's unit, > 0.
    """

    eta: float = 1.0
    deviation: float = 1.0

    label = "DDSMC"

    def kernel(self, t: Level, s: Level) -> tuple[float, float, float]:
        d = t.sigma_bar**2 - s.sigma_bar**2
        a = d / (self.eta * s.sigma_bar**2 + d)
        return s.alpha * t.inverse_alpha * (1 - a), s.alpha * a, s.sigma * math.sqrt(a)

    def twist(self, run: Run, x: Tensor, walk: list[Kernel]) -> Twist:
        return _Decoupled(spectral(self, run.measurement), self.deviation)


class _Decoupled(Twist):
    def __init__(self, measurement: Measurement, deviation: float):
        super().__init__(measurement)
        self.deviation = deviation

    def _variance(self, x: Tensor, kernel: Kernel) -> float:
        """r_t^2."""
        return State(x, kernel.t, x).white_variance(self.deviation)

    def look(self, run: Run, x: Tensor, kernel: Kernel, index: Tensor, draw: Streams) -> Look:
        measurement, x0, r2 = self.measurement.take(index), run.prior(x, kernel.t), self._variance(x, kernel)
        residual = measurement.residual(x0)
        lifted = measurement.operator.solve(residual, self.measurement.noise.sigma**2 / r2)
        pull = (kernel.gain if kernel.s.sigma else 1.0) * measurement.operator.adjoint(lifted)
        return Look(x0, -inner(residual, lifted) / (2 * r2), pull)

    def move(self, mean: Tensor, look: Look, z: Tensor, kernel: Kernel, index: Tensor) -> tuple[Tensor, Tensor]:
        operator, r2, noise2 = self.measurement.operator.take(index), self._variance(mean, kernel), self.noise2
        last = kernel.s.sigma == 0
        gain, v = (1.0, math.sqrt(r2)) if last else (kernel.gain, kernel.v)
        least = 0.0 if last else FLOOR

        def share(s: Tensor) -> Tensor:
            """The proposal's variance over the model's."""
            return (1 - gain**2 * r2 * (s**2 * r2 / (s**2 * r2 + noise2)) / v**2).clamp_min(least)

        pull, wide = look.pull, operator.filter(z, lambda s: share(s).sqrt() * ((s > 0) if last else 1.0))
        x = mean + pull + v * wide
        energy = inner(pull, pull + 2 * v * wide) / v**2 + inner(z, operator.filter(z, lambda s: share(s) - 1))
        determinant = self.measurement.operator.trace(mean, lambda s: share(s).log()).to(mean)
        determinant = determinant[index.to(mean.device)] if len(determinant) > 1 else determinant
        return x, (determinant - energy) / 2 - look.potential

    @property
    def noise2(self) -> float:
        """sigma_y^2."""
        return float(torch.as_tensor(self.measurement.noise.sigma)) ** 2
