"""SMCDiff (Trippe et al. 2023), https://arxiv.org/abs/2206.04119: particles along one path of what was measured.

A path y_T ... y_0 = y_bar of the forward process is drawn once; in each step the measured directions are set to it, and
particles are weighted by how well the model foresaw it (see `adapted`, with c_s = y_s and var_s = 0):

    w <- w N(y_s; m(x_t), v^2 I)

Exact as N grows if the model's steps are exactly those of the forward process turned round, which few large steps are
not. The method is made for clean measurements: it sets the directions to y, noise and all, as long as the state is the
noisier of the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from ..diffusion.run import Run
from ..measurement.noise import ROUNDING
from .adapted import Adapted, observed_path, spectral
from .particles import Kernel, ParticleSampler, Twist


@dataclass(frozen=True)
class SMCDiff(ParticleSampler):
    """For clean measurements by linear operators with singular values.

    Raises:
        Refusal: for noise beyond the rounding of 8 bits.
    """

    label = "SMCDiff"

    def twist(self, run: Run, x: Tensor, walk: list[Kernel]) -> Twist:
        measurement = run.measurement
        if measurement.noise.level is None or measurement.noise.level > 2 * ROUNDING:
            raise Refusal(f"{self.label} takes what was measured as exact, and this has noise; choose MCGDiff instead.")
        twist = _Along(spectral(self, measurement))
        twist.path = observed_path(twist.y_bar.expand(len(x), *x.shape[1:]), walk, run.draw.of("path"))
        return twist


class _Along(Adapted):
    path: list[Tensor]

    def centre(self, kernel: Kernel) -> Tensor:
        return self.path[kernel.number]

    def variance(self, tau: Tensor, kernel: Kernel) -> Tensor:
        return torch.where(tau <= kernel.s.sigma_bar, 0.0, torch.inf) if kernel.s.sigma else tau**2
