"""MCGDiff (Cardoso et al. 2023), https://arxiv.org/abs/2308.07983: Monte Carlo guided diffusion.

A direction measured with noise tau is what the state is at the level where sigma / alpha = tau: there x_t is
alpha y_bar. On the way to that level the forward process says where it will pass, and later it is free (`adapted`):

    c_s = alpha_s y_bar,    var_s = sigma_s^2 - (1 - kappa) alpha_s^2 tau^2 + kappa alpha_s^2

while sigma_s / alpha_s >= tau. In variance-preserving levels var_s = 1 - (1 - kappa) abar_s / abar_tau, as in the
paper. A direction measured better than the last level is active to the end, where it gets its likelihood.

The last target of a direction is the observation itself: x_0 and y are noised copies of each other there, so that the
posterior is the model's x_0 from that state. Its level should be one of the run's. The published code also weighs the
result by p(y given x_0) and divides the last target out, so that with few particles the likelihood counts twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.run import Run
from ..measurement.measurement import Measurement
from .adapted import Adapted, spectral
from .particles import Kernel, ParticleSampler, Twist


@dataclass(frozen=True)
class MCGDiff(ParticleSampler):
    """For linear operators with singular values.

    Args:
        kappa: width of the targets, > 0 (no unit). The code has 1e-2 to 1e-8.
    """

    kappa: float = 1e-4

    label = "MCGDiff"

    def twist(self, run: Run, x: Tensor, walk: list[Kernel]) -> Twist:
        return _Passing(spectral(self, run.measurement), self.kappa, walk)


class _Passing(Adapted):
    def __init__(self, measurement: Measurement, kappa: float, walk: list[Kernel]):
        super().__init__(measurement)
        self.kappa, self.walk = kappa, walk

    def centre(self, kernel: Kernel) -> Tensor:
        return kernel.s.alpha * self.y_bar

    def variance(self, tau: Tensor, kernel: Kernel) -> Tensor:
        s = kernel.s
        if s.sigma == 0:
            return torch.where(tau <= kernel.t.sigma_bar, tau**2, torch.inf)
        var = s.sigma**2 - (1 - self.kappa) * (s.alpha * tau) ** 2 + self.kappa * (s.alpha / s.scale) ** 2
        return torch.where(tau <= s.sigma_bar, var, torch.inf)

    def foreseeing(self, tau: Tensor, kernel: Kernel) -> Tensor:
        if kernel.number + 1 == len(self.walk):
            return torch.zeros_like(tau, dtype=torch.bool)
        after = self.walk[kernel.number + 1]
        return tau <= (after.s if after.s.sigma else after.t).sigma_bar
