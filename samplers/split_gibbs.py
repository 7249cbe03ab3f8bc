"""Plug-and-play diffusion models, PnP-DM (Wu et al. 2024), https://arxiv.org/abs/2405.18782: split Gibbs sampling.

The posterior is split by a copy z of the picture, tied to it by a Gaussian of width rho, and both are drawn in turn:

    x ~ p(x) exp(-norm(x - z)^2 / (2 rho^2))                  reverse diffusion from z, which is x_t / alpha_t at
                                                              sigma_t / alpha_t = rho
    z ~ p(y given z) exp(-norm(x - z)^2 / (2 rho^2))          exactly, or by a chain: see `likelihood_chain`

As rho falls the chain's law tends to the posterior itself; the levels of the run are the values of rho. A chain for z
starts from x while rho falls, as in the published code, so that it does not stay where the prior does not follow (the
negative of a picture in phase retrieval). Where rho is held it goes on from z: an exact kernel then leaves the law of x
and z alone. The paper's prior step has 100 steps of Euler; ours few of an exponential integrator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..diffusion.run import Run, unseen
from .base import Sampler
from .dpm import DPMSolver
from .likelihood_chain import Chain, Likelihood, likelihood_draw

__all__ = ["SplitGibbs", "likelihood_draw"]


@dataclass(frozen=True)
class SplitGibbs(Sampler):
    """One turn at each level but the last, and more at the one before it.

    Args:
        inner: model calls of a prior step, >= 1.
        hold: further turns at the smallest rho, >= 0.
        chain: the likelihood's turn for damage that is not linear.
        solver: of the reverse diffusion, with fresh noise.
    """

    inner: int = 10
    hold: int = 10
    chain: Chain = Chain()
    solver: Sampler = DPMSolver(stochastic=True)

    label = "PnP-DM (split Gibbs)"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        likelihood = Likelihood(run.measurement, self.chain, run.draw)
        levels = [*run.levels[:-1], *[run.levels[-2]] * self.hold]
        for i, t in enumerate(levels):
            walk = run.schedule.ramp(t, self.inner)
            x0 = self.solver(replace(run, levels=walk, blocks=(), report=unseen), x)
            run.report(i * run.steps // len(levels), x, x0, t)
            if i + 1 < len(levels):
                s = levels[i + 1]
                start = x * t.inverse_alpha if s == t else x0
                x = s.alpha * likelihood(x0, s.sigma_bar, start)
        likelihood.note(run.record)
        return x0
