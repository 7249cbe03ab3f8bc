"""The reverse SDE by Euler and Maruyama (Song et al. 2021), https://arxiv.org/abs/2011.13456.

On a time axis with drift f and diffusion g, over a step of h = t - s,

    x_s = x_t - h (f x_t - g^2 score) + g sqrt(h) z,    score = (alpha_t x0_hat - x_t) / sigma_t^2

It needs many small steps, and shows what the exponential integrators gain. Steps from alpha = 0, where the drift is
infinite, and to sigma = 0, where the score is, are made by ancestral DDIM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..algebra.streams import standard_normal
from ..diffusion.level import Level
from ..diffusion.schedule import Axis
from ..guidance.state import Estimate


def euler_maruyama(
    model: Callable[..., Estimate],
    x: Tensor,
    levels: Sequence[Level],
    axis: Axis,
    generators: list[torch.Generator],
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """x at the last level; of weak order one. Arguments as in `guided_ddim`.

    Args:
        axis: where the SDE lives; levels are taken over by their sigma / alpha, and the state is rescaled.
    """
    steps = len(levels) - 1
    for i, (t, s) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        x0, shift, _ = model(x, t, s, i / steps, i)
        if callback is not None:
            callback(i, x, x0)
        if t.alpha == 0 or s.sigma == 0:
            x = s.alpha * x0 + s.norm * shift
            if s.sigma:
                x = x + s.sigma * standard_normal(x, generators)
            continue
        now, then = (axis.time(level.scale * level.sigma / level.alpha) for level in (t, s))
        h, alpha, g2 = now - then, axis.alpha(now), axis.g2(now)
        u = x * (alpha / t.alpha)
        drift = axis.f(now) * u - g2 / axis.sigma(now) ** 2 * (alpha * x0 - u)
        u = u - h * drift + math.sqrt(g2 * h) / t.scale * standard_normal(x, generators)
        x = u * (s.alpha / axis.alpha(then)) + s.norm * shift
    return x
