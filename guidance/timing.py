"""When a guidance block listens, and how much: one rule for all methods.

    weight(p) = strength * shape((p - start) / (end - start))    for start <= p < end, on every n-th step, else 0

with p the share of the sampling that is done. A block of weight w moves the estimate by w (x0_hat(y) - x0_hat), and
a step that it owns by w times its change. At w = 0 it is not even asked: no backward pass, no copy. Weights of several
timings of one block multiply.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ..algebra.refusal import Refusal

Schedule = Literal["constant", "rising", "falling", "bump"]
SCHEDULES = get_args(Schedule)
_SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda q: 1.0,
    "rising": lambda q: q,
    "falling": lambda q: 1.0 - q,
    "bump": lambda q: math.sin(math.pi * q) ** 2,
}


@dataclass(frozen=True)
class Timing:
    """The weight of a block over the sampling.

    Args:
        strength: factor on what the block changes, >= 0; 1 is the method as it is, 0 is off.
        start, end: shares of the sampling between which the block listens, 0 <= start <= end <= 1.
        every: it listens in steps 0, n, 2n ...
        schedule: how the strength goes from start to end.
        within: another timing, which the block listens by as well.

    Raises:
        Refusal: when start is after end.
    """

    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    every: int = 1
    schedule: Schedule = "constant"
    within: Timing | None = None

    def __post_init__(self) -> None:
        if self.start > self.end:
            raise Refusal("The guidance would end before it starts; set the end above the start.")

    def weight(self, progress: float, index: int) -> float:
        """The factor at a step. progress: share that is done, in [0, 1); index: number of the step, from 0."""
        if not self.start <= progress < self.end or index % self.every:
            return 0.0
        weight = self.strength * _SHAPES[self.schedule]((progress - self.start) / (self.end - self.start))
        return weight * self.within.weight(progress, index) if self.within else weight

    def __mul__(self, other: Timing) -> Timing:
        """Both: the weight at each step is the product."""
        rest = replace(other, strength=1.0)
        within = self.within * rest if self.within else rest
        return replace(self, strength=self.strength * other.strength, within=within)


ALWAYS = Timing()
