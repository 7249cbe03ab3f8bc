"""Blind inverse problems in any guided sampler: before each step theta is found from (y, x0_hat), and A made anew.

    theta ~ or = argmax p(theta | y, x0_hat),    x0_hat(y) = block(x_t; A(theta)),    x_s by the sampler's own step

Solved for by least squares that is the plain alternation for every block; drawn it is that of GibbsDDRM (Murata et al.
2023, https://arxiv.org/abs/2301.12686), whose Langevin steps are an exact draw, or MALA, here (`samplers.unknown`).
With DPS it does what BlindDPS does (Chung et al. 2023, https://arxiv.org/abs/2211.10656) where no second diffusion
model for kernels is at hand: the prior of kernels is the simplex, on which their l1 norm is 1 and penalises nothing.

x0_hat is the model's own prediction, before the block has bent it to y with the theta of now, which would confirm
itself. Its error counts as noise of y when theta is drawn, r_t^2 of a white prior (`State.white_variance`). At high
noise x0_hat says little, so that theta stays as it is until a share `since` of the sampling is done; GibbsDDRM starts
at 0.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..diffusion.run import Block, Run
from ..diffusion.state import Estimate, State, Step
from ..guidance.diffpir import PHOTOS
from ..guidance.timing import Timing
from ..measurement.measurement import Measurement
from .base import Sampler
from .ddim import GuidedDDIM
from .unknown import Search, Unknown


@dataclass(frozen=True)
class Blind(Sampler):
    """A sampler whose first block listens through an operator that is found on the way.

    Args:
        unknown: what is to be found; the block's own operator is what happened after it.
        sampler: the sampler, with blocks.
        since: share of the sampling after which theta is updated, in [0, 1).
    """

    unknown: Unknown = Unknown()
    sampler: Sampler = GuidedDDIM(1.0)
    since: float = 0.3

    label = "Blind sampler"

    @property
    def transitions(self) -> bool:
        return self.sampler.transitions

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        run.measurement  # noqa: B018  refuses a run without one
        first, *others = run.blocks
        search = Search(self.unknown, first.measurement, x, run.draw.of("unknown"))
        follower = Follower(first, search, self.since)
        x0 = self.sampler(replace(run, blocks=(follower, *others)), x)
        run.record.update(search.record())
        return x0


class Follower:
    """A block whose measurement is that of a search.

    Args:
        block: with the known part of the operator.
        search: of one run.
        since: as in `Blind`.
    """

    def __init__(self, block: Block, search: Search, since: float):
        self.block, self.search, self._since = block, search, since

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
            self.search.update(self.search.picture(state.x0), state.white_variance(PHOTOS) ** 0.5)
        self.block = self.block.observing(self.search.measurement())
        return self.block.estimate(state, x0)

    def transition(self, x_s: Tensor, step: Step) -> Tensor:
        return self.block.transition(x_s, step)
