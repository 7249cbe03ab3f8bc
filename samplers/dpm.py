"""DPM-Solver++ in its multistep form (Lu et al. 2022), https://arxiv.org/abs/2211.01095, for the ODE and the SDE.

An exponential integrator: the linear part of the probability-flow ODE, or of the reverse SDE, is solved exactly, and
x0_hat is extrapolated linearly in the log signal-to-noise ratio. With r = alpha_t sigma_s / (alpha_s sigma_t),
h = -log r, and h_0 that of the step before,

    D     = x0_hat + (x0_hat - x0_hat_before) h / (2 h_0)
    ODE   x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - r) D
    SDE   x_s = (sigma_s / sigma_t) r x_t + alpha_s (1 - r^2) D + sigma_s sqrt(1 - r^2) z

The first step, and one to sigma = 0, take D = x0_hat: DDIM with eta = 0 and eta = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..diffusion.run import Run
from .base import Sampler


@dataclass(frozen=True)
class DPMSolver(Sampler):
    """DPM-Solver++ 2M, of second order in the steps.

    Args:
        stochastic: the SDE instead of the ODE.
    """

    stochastic: bool = False

    label = "DPM-Solver++ 2M"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        order = 2 if self.stochastic else 1
        before, h_before = None, math.inf
        for i, t, s in run.walk:
            x0, shift, _ = run.guided(x, t, s, i)
            run.report(i, x, x0, t)
            r = t.alpha * s.sigma / (s.alpha * t.sigma) if s.sigma else 0.0
            h = -math.log(r) if r else math.inf
            bend = h / (2 * h_before) if math.isfinite(h) and math.isfinite(h_before) else 0.0
            target = x0 + bend * (x0 - before) if bend else x0
            before, h_before = x0, h
            x = (s.sigma / t.sigma) * r ** (order - 1) * x + s.alpha * (1 - r**order) * target + s.vp_norm * shift
            if self.stochastic and s.sigma:
                x = x + s.sigma * math.sqrt(1 - r**2) * run.draw.normal(x)
        return x
