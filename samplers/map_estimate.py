"""MAP estimation: annealed ascent on log p(x) + log p(y given x) by the score of the prior.

At each level, with score_t(x) = (x0_hat - x) / sigma_bar_t^2 of x as a state of exploding noise, a proximal gradient
step (Parikh and Boyd 2014, https://doi.org/10.1561/2400000003)

    v = x + h (x0_hat(x) - x)                                                       h sigma_bar_t^2 times the score
    x = argmin_u norm(y - A u)^2 / (2 sigma_y^2) + norm(u - v)^2 / (2 h sigma_bar_t^2)

stands still exactly where score_t(x) + A^T (y - A x) / sigma_y^2 = 0, the mode of p_t(x) p(y given x), which tends to
the posterior's as t falls. Damage that is not linear takes the gradient in the place of the argmin, with a step that
its steepest direction bears. A mode of a learned density may be a poor picture, and fits the noise; with `stop` a
sample rests once its residual has risen to the noise (Morozov's discrepancy principle).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.norms import operator_norm
from ..diffusion.run import Run
from ..measurement.measurement import Measurement
from .base import Sampler
from .red_diff import first_picture


@dataclass(frozen=True)
class MAPEstimate(Sampler):
    """A few steps at each level.

    Args:
        inner: steps (model calls) at each level, >= 1.
        step: h, in (0, 1].
        stop: residual at which a sample rests, in units of the noise; 0 never.
    """

    inner: int = 3
    step: float = 0.5
    stop: float = 1.0

    label = "MAP estimate"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        measurement = run.measurement.whitened().resolved()
        x = first_picture(run.measurement, x)
        resting = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for i, t, _ in run.walk:
            for _ in range(self.inner if t.alpha else 0):
                x0 = run.prior(t.alpha * x, t)
                v = x + self.step * (x0 - x)
                new = data_step(measurement, x, v, self.step * t.sigma_bar**2)
                x = torch.where(resting.reshape(-1, 1, 1, 1), x, new)
            if self.stop and measurement.noisy:
                resting = resting | (measurement.fit(x) >= self.stop).to(x.device)
            run.report(i, t.alpha * x, x, t)
        last = run.levels[-1]
        return last.alpha * x + last.sigma * run.draw.normal(x)


def data_step(measurement: Measurement, x: Tensor, v: Tensor, variance: float) -> Tensor:
    """The proximal step from v, or a gradient step at x on both parts; variance: h sigma_bar_t^2."""
    if measurement.operator.linear:
        ratio = measurement.noise.sigma**2 / variance if measurement.noisy else 1e-8
        return measurement.operator.prox(v, measurement.y, max(ratio, 1e-8))
    y, pull_back = measurement.operator.linearise(x)

    def gram(u: Tensor) -> Tensor:
        return pull_back(measurement.operator.forward(x + u) - y)

    deviation = torch.as_tensor(measurement.noise.deviation(measurement.y)).clamp_min(1e-3).square().mean().to(x)
    gradient = pull_back(measurement.y - y) / deviation
    steepest = operator_norm(gram, torch.ones_like(x) + 0.5 * x, 5) / deviation
    return x + ((v - x) / variance + gradient) / (1 / variance + steepest)
