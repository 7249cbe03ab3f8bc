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
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..algebra.streams import standard_normal
from ..diffusion.level import Level
from ..guidance.state import Estimate


def dpm_solver(
    model: Callable[..., Estimate],
    x: Tensor,
    levels: Sequence[Level],
    stochastic: bool = False,
    generators: list[torch.Generator] | None = None,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """x at the last level; of second order in the steps. Arguments as in `guided_ddim`.

    Args:
        stochastic: the SDE instead of the ODE; needs `generators`.
    """
    steps, order = len(levels) - 1, 2 if stochastic else 1
    before, h_before = None, math.inf
    for i, (t, s) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        x0, shift, _ = model(x, t, s, i / steps, i)
        if callback is not None:
            callback(i, x, x0)
        r = t.alpha * s.sigma / (s.alpha * t.sigma) if s.sigma else 0.0
        h = -math.log(r) if r else math.inf
        bend = h / (2 * h_before) if math.isfinite(h) and math.isfinite(h_before) else 0.0
        target = x0 + bend * (x0 - before) if bend else x0
        before, h_before = x0, h
        x = (s.sigma / t.sigma) * r ** (order - 1) * x + s.alpha * (1 - r**order) * target + s.norm * shift
        if stochastic and s.sigma:
            x = x + s.sigma * math.sqrt(1 - r**2) * standard_normal(x, generators)
    return x
