"""One run of sampling: what a sampler gets, and all that it gets.

A sampler is `sampler(run, x_T) -> x_0`. It asks `run.guided` for the conditional denoiser, or the prior itself where
it brings the measurement in by its own means, draws from `run.draw`, and shows its way through `run.report`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ..algebra.refusal import Refusal
from ..algebra.streams import Streams
from ..measurement.measurement import Measurement, combine
from .level import Level
from .schedule import Schedule
from .state import DenoiserPrior, Estimate, Prior, State, Step, predict


class Timed(Protocol):
    """When a block listens, and how much."""

    def weight(self, progress: float, index: int) -> float:
        """The factor at a step, 0 for off."""


class Block(Protocol):
    """What a run asks of a guidance block; see `guidance.base`."""

    measurement: Measurement
    timing: Timed
    jacobian: bool

    def estimate(self, state: State, x0: Tensor) -> Estimate: ...

    def transition(self, x_s: Tensor, step: Step) -> Tensor: ...


def unseen(index: int, x_t: Tensor, x0: Tensor, t: Level) -> None:
    """A report that nobody reads."""


@dataclass
class Run:
    """A run.

    Args:
        prior: the unguided model; a plain function `(x_t, t) -> x0_hat` will do.
        levels: the noise levels, falling; the last is usually (1, 0).
        blocks: the guidance blocks, in order; none for unguided sampling.
        draw: fresh randomness, one stream for each sample.
        report: called as (i, x_t, x0_hat, t) after the work of step i.
        record: what is not a picture: evidence, effective sample size, kernel, mean, variance.
        schedule: alpha and sigma of the model's family, for levels between those given.
    """

    prior: Prior
    levels: Sequence[Level]
    blocks: Sequence[Block] = ()
    draw: Streams = field(default_factory=lambda: Streams(0, "sampling"))
    report: Callable[[int, Tensor, Tensor, Level], None] = unseen
    record: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        if not hasattr(self.prior, "linearise"):
            self.prior = DenoiserPrior(self.prior)

    @property
    def steps(self) -> int:
        """How many steps the levels make."""
        return len(self.levels) - 1

    @property
    def walk(self) -> Iterator[tuple[int, Level, Level]]:
        """(i, t, s) of each step, one after the other."""
        return zip(range(self.steps), self.levels[:-1], self.levels[1:], strict=True)

    @property
    def measurement(self) -> Measurement:
        """All that was measured as one, for samplers that bring it in by their own means.

        Raises:
            Refusal: when nothing was measured.
        """
        if not self.blocks:
            raise Refusal("This sampler needs a measurement; connect one.")
        measurements = [block.measurement for block in self.blocks]
        return measurements[0] if len(measurements) == 1 else combine(measurements)

    def guided(self, x: Tensor, t: Level, s: Level | None = None, index: int = 0) -> Estimate:
        """The conditional denoiser: x0_hat(y) at x_t, with one call of the prior.

        Args:
            s: the level that the step goes to.
            index: number of the step, from 0.
        """
        progress = index / max(self.steps, 1)
        jacobian = any(block.jacobian and block.timing.weight(progress, index) for block in self.blocks)
        state = predict(self.prior, x, t, jacobian, s=s, progress=progress, index=index, draw=self.draw)
        return combined(self.blocks, state, once=True)

    def prompted(self, share: float) -> Prior:
        """The prior with a share of its CFG, scale 1 + share (cfg - 1); as it is where there are no prompts."""
        return self.prior

    def transit(self, x_s: Tensor, step: Step) -> Tensor:
        """x_s after the blocks have had their say in the step."""
        for block in self.blocks:
            weight = block.timing.weight(step.progress, step.index)
            if weight:
                own = block.transition(x_s, step)
                x_s = own if weight == 1 else x_s + weight * (own - x_s)
        return x_s


def combined(blocks: Sequence[Block], state: State, once: bool = False) -> Estimate:
    """Any number of blocks at one state: estimates are handed on, shifts add up, the prior is asked once.

    Args:
        once: nobody needs the state's Jacobian afterwards, so that its graph may be freed on the way.
    """
    listening = [(block, block.timing.weight(state.progress, state.index)) for block in blocks]
    listening = [(block, weight) for block, weight in listening if weight]
    last = max((k for k, (block, _) in enumerate(listening) if block.jacobian), default=-1)
    x0, shift, ascent = state.x0, 0.0, 0.0
    for k, (block, weight) in enumerate(listening):
        state.last = once and k == last
        own = block.estimate(state, x0)
        x0 = own.x0 if weight == 1 else x0 + weight * (own.x0 - x0)
        shift, ascent = shift + weight * own.shift, ascent + weight * own.ascent
    return Estimate(x0, shift, ascent)
