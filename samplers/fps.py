"""Filtering posterior sampling, FPS-SMC (Dou and Song 2024), https://openreview.net/forum?id=tplXNcHZs1.

The measurement gets a noisy version at each level, a path y_T ... y_0 = y of the forward process with the noise A z,
and the reverse process is filtered with them, one after the other, as with independent observations
y_s = A x_s + alpha_s sigma_y n (see `adapted`):

    c_s = A^+ y_s,    var_s = alpha_s^2 tau^2

Their noise n is one and the same in truth, that of y. Taken as independent it is averaged away: samples vary too
little, the more so the more steps there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..diffusion.run import Run
from .adapted import Adapted, observed_path, spectral
from .particles import Kernel, ParticleSampler, Twist


@dataclass(frozen=True)
class FPS(ParticleSampler):
    """For linear operators with singular values."""

    label = "FPS-SMC"

    def twist(self, run: Run, x: Tensor, walk: list[Kernel]) -> Twist:
        twist = _Filtered(spectral(self, run.measurement))
        twist.path = observed_path(twist.y_bar.expand(len(x), *x.shape[1:]), walk, run.draw.of("path"))
        return twist


class _Filtered(Adapted):
    path: list[Tensor]

    def centre(self, kernel: Kernel) -> Tensor:
        return self.path[kernel.number]

    def variance(self, tau: Tensor, kernel: Kernel) -> Tensor:
        return (kernel.s.alpha * tau) ** 2
