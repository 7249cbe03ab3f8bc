"""Heun's method on the probability-flow ODE (Karras et al. 2022, algorithm 1), https://arxiv.org/abs/2206.00364.

The ODE's velocity along a schedule is alpha' x0_hat + sigma' eps_hat with eps_hat = (x_t - alpha_t x0_hat) / sigma_t.
Its integral over a step t to s by the trapezoidal rule, for any alpha and sigma:

    x_s = x_t + (alpha_s - alpha_t) (x0_hat_t + x0_hat_s) / 2 + (sigma_s - sigma_t) (eps_hat_t + eps_hat_s) / 2

where the prediction at s is made at the Euler step, which is DDIM with eta = 0. A step to sigma = 0 stays Euler's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..diffusion.level import Level
from ..guidance.state import Estimate


def heun(
    model: Callable[..., Estimate],
    x: Tensor,
    levels: Sequence[Level],
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """x at the last level, two model calls a step; of second order. Arguments as in `guided_ddim`.

    The recipes that shift the state after a step act once, at the first of the two calls.
    """
    steps = len(levels) - 1
    for i, (t, s) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        x0, shift, _ = model(x, t, s, i / steps, i)
        if callback is not None:
            callback(i, x, x0)
        eps = (x - t.alpha * x0) / t.sigma
        euler = s.alpha * x0 + s.sigma * eps
        if s.sigma:
            ahead, _, _ = model(euler, s, levels[min(i + 2, steps)], i / steps, i)
            turn = (euler - s.alpha * ahead) / s.sigma - eps
            euler = euler + 0.5 * ((s.alpha - t.alpha) * (ahead - x0) + (s.sigma - t.sigma) * turn)
        x = euler + s.norm * shift
    return x
