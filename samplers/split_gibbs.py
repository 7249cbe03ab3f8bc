"""Plug-and-play diffusion models, PnP-DM (Wu et al. 2024), https://arxiv.org/abs/2405.18782: split Gibbs sampling.

The posterior is split by a copy z of the picture, tied to it by a Gaussian of width rho, and both are drawn in turn:

    x ~ p(x) exp(-norm(x - z)^2 / (2 rho^2))                  reverse diffusion from z, which is x_t / alpha_t at
                                                              sigma_t / alpha_t = rho
    z ~ p(y given z) exp(-norm(x - z)^2 / (2 rho^2))          for a linear A and Gaussian noise exactly:
        z = argmin_z norm(A z - (y + sigma_y n'))^2 / sigma_y^2 + norm(z - (x + rho n))^2 / rho^2

with n, n' ~ N(0, I) (perturb and solve). As rho falls the chain's law tends to the posterior itself; the levels of the
run are the values of rho. The paper's prior step has 100 steps of Euler; ours few of an exponential integrator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..algebra.refusal import Refusal
from ..algebra.streams import Streams
from ..diffusion.run import Run, unseen
from ..measurement.measurement import Measurement
from .base import Sampler
from .dpm import DPMSolver


@dataclass(frozen=True)
class SplitGibbs(Sampler):
    """One turn at each level but the last, and more at the one before it.

    Args:
        inner: model calls of a prior step, >= 1.
        hold: further turns at the smallest rho, >= 0.

    Raises:
        Refusal: for damage that is not linear.
    """

    inner: int = 10
    hold: int = 10

    label = "PnP-DM (split Gibbs)"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        measurement = run.measurement.whitened().resolved()
        if not measurement.operator.linear:
            raise Refusal(f"{self.label} needs a linear operator, and {measurement.operator.label} is not.")
        levels = [*run.levels[:-1], *[run.levels[-2]] * self.hold]
        for i, t in enumerate(levels):
            walk = run.schedule.ramp(t, self.inner)
            x0 = DPMSolver(stochastic=True)(replace(run, levels=walk, blocks=(), report=unseen), x)
            run.report(i * run.steps // len(levels), x, x0, t)
            if i + 1 < len(levels):
                s = levels[i + 1]
                x = s.alpha * likelihood_draw(measurement, x0, s.sigma_bar, run.draw)
        return x0


def likelihood_draw(measurement: Measurement, x: Tensor, rho: float, draw: Streams) -> Tensor:
    """z ~ p(y given z) exp(-norm(x - z)^2 / (2 rho^2)), exactly. measurement: linear, of one noise level."""
    sigma = measurement.noise.sigma
    y = measurement.y.expand(len(x), *measurement.y.shape[1:])
    perturbed = y + sigma * draw.normal(y)
    return measurement.operator.prox(x + rho * draw.normal(x), perturbed, max((sigma / rho) ** 2, 1e-8))
