"""Heun's method on the probability-flow ODE (Karras et al. 2022, algorithm 1), https://arxiv.org/abs/2206.00364.

The ODE's velocity along a schedule is alpha' x0_hat + sigma' eps_hat with eps_hat = (x_t - alpha_t x0_hat) / sigma_t.
Its integral over a step t to s by the trapezoidal rule, for any alpha and sigma:

    x_s = x_t + (alpha_s - alpha_t) (x0_hat_t + x0_hat_s) / 2 + (sigma_s - sigma_t) (eps_hat_t + eps_hat_s) / 2

where the prediction at s is made at the Euler step, which is DDIM with eta = 0. A step to sigma = 0 stays Euler's.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..diffusion.run import Run
from .base import Sampler


@dataclass(frozen=True)
class Heun(Sampler):
    """Two model calls a step; of second order.

    The recipes that shift the state after a step act once, at the first of the two calls.
    """

    label = "Heun"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        for i, t, s in run.walk:
            x0, shift, _ = run.guided(x, t, s, i)
            run.report(i, x, x0, t)
            eps = (x - t.alpha * x0) / t.sigma
            euler = s.alpha * x0 + s.sigma * eps
            if s.sigma:
                ahead, _, _ = run.guided(euler, s, run.levels[min(i + 2, run.steps)], i)
                turn = (euler - s.alpha * ahead) / s.sigma - eps
                euler = euler + 0.5 * ((s.alpha - t.alpha) * (ahead - x0) + (s.sigma - t.sigma) * turn)
            x = euler + s.vp_norm * shift
        return x
