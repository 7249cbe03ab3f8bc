"""The reverse SDE by Euler and Maruyama (Song et al. 2021), https://arxiv.org/abs/2011.13456.

On a time axis with drift f and diffusion g, over a step of h = t - s,

    x_s = x_t - h (f x_t - g^2 score) + g sqrt(h) z,    score = (alpha_t x0_hat - x_t) / sigma_t^2

It needs many small steps, and shows what the exponential integrators gain. Steps from alpha = 0, where the drift is
infinite, and to sigma = 0, where the score is, are made by ancestral DDIM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..diffusion.run import Run
from ..diffusion.schedule import AXES, Axis
from .base import Sampler


@dataclass(frozen=True)
class EulerMaruyama(Sampler):
    """The textbook scheme, of weak order one.

    Args:
        axis: where the SDE lives; levels are taken over by their sigma / alpha, and the state is rescaled.
    """

    axis: Axis = AXES["VE"]

    label = "Euler-Maruyama"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        axis = self.axis
        for i, t, s in run.walk:
            x0, shift, _ = run.guided(x, t, s, i)
            run.report(i, x, x0, t)
            if t.alpha == 0 or s.sigma == 0:
                x = s.alpha * x0 + s.vp_norm * shift
                if s.sigma:
                    x = x + s.sigma * run.draw.normal(x)
                continue
            now, then = (axis.time(level.scale * level.sigma / level.alpha) for level in (t, s))
            h, alpha, g2 = now - then, axis.alpha(now), axis.g2(now)
            u = x * (alpha / t.alpha)
            drift = axis.f(now) * u - g2 / axis.sigma(now) ** 2 * (alpha * x0 - u)
            u = u - h * drift + math.sqrt(g2 * h) / t.scale * run.draw.normal(x)
            x = u * (s.alpha / axis.alpha(then)) + s.vp_norm * shift
        return x
