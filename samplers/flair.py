"""FLAIR (Erbach et al. 2025), https://arxiv.org/abs/2506.02680: one picture, relaxed to the model and fitted in turn.

With u = sigma / (alpha + sigma) the time of a flow model, from mu = E(A^+ y) and noise n on:

    n    <- (1 - u) n + sqrt(1 - (1 - u)^2) eps                          kept noise, ever less of it fresh
    x_t   = alpha_t mu + sigma_t n,   n <- (x_t - alpha_t x0_hat) / sigma_t
    mu   <- mu + k (x0_hat - mu)
    mu   <- down norm(y - A(D(mu)))^2 until the residual is down to the noise

The paper's prior step is mu -= w (mu + v - n), which with the model's velocity v is the relaxation with k = w / u; its
w(u) was measured as the error of Stable Diffusion 3.5's velocity, and `RELAXED` is k of that curve, for 50 steps. With
N steps what is left of mu in all must stay the same: k' = 1 - (1 - k)^(50 / N). The paper's data steps are gradient
steps of a length tuned for each task, stopped at a residual of 1e-2, its noise; here they are those of `descent`, and
stop at the noise that the measurement says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ..diffusion.run import Run
from .back_projection import back_projection
from .base import Sampler
from .descent import descend

#: (u, k) of 50 steps
RELAXED = (
    (0.0, 0.5), (0.1, 0.60), (0.2, 0.75), (0.3, 0.80), (0.4, 0.85), (0.5, 0.84), (0.6, 0.83), (0.7, 0.80), (0.8, 0.71),
    (0.9, 0.56), (0.95, 0.42), (1.0, 0.11),
)  # fmt: skip


@dataclass(frozen=True)
class FLAIR(Sampler):
    """One model call a step, and at most `iterations` of the decoder with its derivative.

    Args:
        iterations: of the fit, at most; the paper has 15.
    """

    iterations: int = 5

    label = "FLAIR"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        measurement, last = run.measurement, run.levels[-1]
        mu, noise = back_projection(measurement, x), run.draw.normal(x)
        for i, t, _ in run.walk:
            keep = 1 - t.flow_time
            noise = keep * noise + math.sqrt(1 - keep**2) * run.draw.normal(x)
            x_t = t.alpha * mu + t.sigma * noise
            x0 = run.prior(x_t, t)
            noise = (x_t - t.alpha * x0) / t.sigma
            mu = mu + (1 - (1 - relaxation(t.flow_time)) ** (50 / run.steps)) * (x0 - mu)
            mu = descend(measurement, mu, self.iterations)
            run.report(i, x_t, mu, t)
        return last.alpha * mu + (last.sigma * run.draw.normal(mu) if last.sigma else 0.0)


def relaxation(time: float) -> float:
    """k of one of 50 steps, between the entries of `RELAXED`."""
    for (u, k), (v, after) in pairwise(RELAXED):
        if time <= v:
            return k + (after - k) * (time - u) / (v - u)
    return RELAXED[-1][1]
