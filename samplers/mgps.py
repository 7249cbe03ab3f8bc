"""Midpoint guidance, MGPS (Moufad, Janati et al. 2025), https://arxiv.org/abs/2410.09945.

The likelihood is taken at p(y given x0_hat(x_l)) of a midpoint l between s and the picture, where x0_hat is much nearer
to the truth than at s. A step t to s:

    x_l ~ N(m, v)               fitted to log p(y given x0_hat(x_l)) and to q(x_l given x_t, x0_hat(x_t)), by Adam
    x_s ~ q(x_s given x_l, x_t)

see `fitted_steps`. The midpoint is a share of the time of s on the axis of variance-preserving models. Every tenth step
and the last ones are fitted longer. The last step is the prior's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..diffusion.level import Level
from ..diffusion.run import Run
from ..diffusion.schedule import AXES, Schedule
from .base import Sampler
from .fitted_steps import CLEAN, Adam, bridge, fitted, guided_by
from .likelihood_chain import with_noise


@dataclass(frozen=True)
class MGPS(Sampler):
    """1 + `iterations` model calls a step, of which `iterations` with a gradient.

    Args:
        middle: l as a share of the time of s, in [0, 1].
        iterations: of Adam in a step, >= 1; with 300 steps the paper has 2, and a rate of 0.03.
        more: of Adam in each `every`-th step and in the `last` ones.
        every, last: how often, and how many.
        rate: of Adam, in the unit of variance-preserving states.
    """

    middle: float = 0.5
    iterations: int = 5
    more: int = 20
    every: int = 10
    last: int = 5
    rate: float = 0.1

    label = "MGPS"
    jacobian = True

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        measurement, normal = with_noise(run.measurement), run.draw.normal
        for i, t, s in run.walk:
            x0 = run.prior(x, t)
            run.report(i, x, x0, t)
            if not s.sigma:
                return s.alpha * x0
            between = midpoint(run.schedule, s, self.middle)
            a, b, v = bridge(t, CLEAN, between)

            def ascent(x_l: Tensor, between: Level = between) -> Tensor:
                return guided_by(run.prior, measurement, x_l, between, CLEAN)[1]

            long = i % self.every == 0 or run.steps - i <= self.last
            steps, unit = self.more if long else self.iterations, between.vp_norm / between.scale
            x_l = fitted(ascent, a * x + b * x0, v, unit, steps, Adam(self.rate), normal)
            a, b, v = bridge(t, between, s)
            x = a * x + b * x_l + v * normal(x)
        return x


def midpoint(schedule: Schedule, s: Level, share: float) -> Level:
    """The level at a share of the time of s."""
    axis = AXES["VP"]
    time = share * axis.time(s.scale * s.sigma_bar)
    return schedule.at(axis.sigma(time) / axis.alpha(time) / s.scale, s.scale)
