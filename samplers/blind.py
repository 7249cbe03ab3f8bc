"""Blind inverse problems in any guided sampler: before each step theta is found from (y, x0_hat), and A made anew.

    theta ~ or = argmax p(theta | y, x0_hat),    x0_hat(y) = block(x_t; A(theta)),    x_s by the sampler's own step

Solved for by least squares that is the plain alternation for every block; drawn it is that of GibbsDDRM (Murata et al.
2023, https://arxiv.org/abs/2301.12686), whose Langevin steps are an exact draw, or MALA, here (`samplers.unknown`).
With DPS it does what BlindDPS does (Chung et al. 2023, https://arxiv.org/abs/2211.10656) where no second diffusion
model for kernels is at hand: the prior of kernels is the simplex, on which their l1 norm is 1 and penalises nothing.

x0_hat is the model's own prediction, before the block has bent it to y with the theta of now, which would confirm
itself. At high noise it says little, so that theta stays as it is until a share `since` of the sampling is done;
GibbsDDRM starts at 0.3.

A restoration puts no noise back. Its x0_hat is a mean, as blurred as y at first, whose least squares find no blur at
all: of a Gaussian of 2 pixels on training photographs 0.6 are left. With the error of that mean counted, r_t of a white
prior of deviation `detail` (`State.white_variance`, `samplers.unknown`), 1.9 to 2.0 are found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..diffusion.run import Block, Run
from ..diffusion.state import Estimate, State, Step
from ..guidance.timing import Timing
from ..measurement.measurement import Measurement
from .base import Sampler
from .ddim import GuidedDDIM
from .unknown import Search, Unknown

#: `detail` for restorations: of 0.05, 0.1 and 0.2 what came nearest to Gaussian blurs on training photographs
DETAIL = 0.2


@dataclass(frozen=True)
class Blind(Sampler):
    """A sampler whose first block listens through an operator that is found on the way.

    Args:
        unknown: what is to be found; the block's own operator is what happened after it.
        sampler: the sampler, with blocks.
        since: share of the sampling after which theta is updated, in [0, 1).
        detail: standard deviation of what x0_hat cannot show of pictures, in the model's unit; 0 for samples.
    """

    unknown: Unknown = Unknown()
    sampler: Sampler = GuidedDDIM(1.0)
    since: float = 0.3
    detail: float = 0.0

    label = "Blind sampler"

    @property
    def transitions(self) -> bool:
        return self.sampler.transitions

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        run.measurement  # noqa: B018  refuses a run without one
        first, *others = run.blocks
        search = Search(self.unknown, first.measurement, x, run.draw.of("unknown"))
        follower = Follower(first, search, self.since, self.detail)
        x0 = self.sampler(replace(run, blocks=(follower, *others)), x)
        x0 = search.aligned(x0)
        run.record.update(search.record())
        return x0


class Follower:
    """A block whose measurement is that of a search.

    Args:
        block: with the known part of the operator.
        search: of one run.
        since, detail: as in `Blind`.
    """

    def __init__(self, block: Block, search: Search, since: float, detail: float):
        self.block, self.search, self._since, self._detail = block, search, since, detail

    @property
    def label(self) -> str:
        return self.block.label

    @property
    def measurement(self) -> Measurement:
        return self.block.measurement

    @property
    def timing(self) -> Timing:
        return self.block.timing

    @property
    def jacobian(self) -> bool:
        return self.block.jacobian

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        if state.progress >= self._since:
            error = state.white_variance(self._detail) ** 0.5 if self._detail else 0.0
            self.search.update(self.search.picture(state.x0), error)
        self.block = self.block.observing(self.search.measurement())
        return self.block.estimate(state, x0)

    def transition(self, x_s: Tensor, step: Step) -> Tensor:
        return self.block.transition(x_s, step)
