"""Picture and parameters from their joint posterior: split Gibbs sampling (`samplers.split_gibbs`) with a third turn.

    x ~ p(x) exp(-norm(x - z)^2 / (2 rho^2))                            reverse diffusion
    z ~ p(y | z, theta) exp(-norm(x - z)^2 / (2 rho^2))                 exactly, or by a chain
    theta ~ p(y | z, theta) p(theta)                                    `samplers.unknown`

Each turn leaves p(x, z, theta | y) alone, so that at a fixed rho the law of theta is exactly that of a prior p(x)
widened by rho, and tends to p(theta | y) as rho falls. (GibbsDDRM, https://arxiv.org/abs/2301.12686, alternates along
one reverse diffusion instead, which is faster and only near the posterior: `samplers.blind`.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..diffusion.run import Run, unseen
from .base import Sampler
from .dpm import DPMSolver
from .likelihood_chain import Chain, Likelihood
from .unknown import Search, Unknown


@dataclass(frozen=True)
class BlindSplitGibbs(Sampler):
    """One turn of each at each level but the last, and more at the one before it.

    Args:
        unknown: what is to be found, drawn.
        inner: model calls of a prior step, >= 1.
        hold: further turns at the smallest rho, >= 0.
        chain: the likelihood's turn for damage that is not linear.
    """

    unknown: Unknown = Unknown(update="draw")
    inner: int = 10
    hold: int = 10
    chain: Chain = Chain()

    label = "Blind split Gibbs"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        search = Search(self.unknown, run.measurement, x, run.draw.of("unknown"))
        levels = [*run.levels[:-1], *[run.levels[-2]] * self.hold]
        for i, t in enumerate(levels):
            walk = run.schedule.ramp(t, self.inner)
            x0 = DPMSolver(stochastic=True)(replace(run, levels=walk, blocks=(), report=unseen), x)
            run.report(i * run.steps // len(levels), x, x0, t)
            if i + 1 < len(levels):
                s = levels[i + 1]
                start = x0 + s.sigma_bar / t.sigma_bar * (x * t.inverse_alpha - x0)
                z = Likelihood(search.measurement(), self.chain, run.draw)(x0, s.sigma_bar, start)
                search.update(search.picture(z))
                x = s.alpha * z
        run.record.update(search.record())
        return x0
