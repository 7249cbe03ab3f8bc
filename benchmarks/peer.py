"""A method beside others, as `bench peers` runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .counted import Counted
from .frontier import Task

#: steps: what fewer of them make is a mean, which has the least squared error and is no sample
FEWEST = 4
#: noise over signal where a library's own levels begin, [-1, 1] unit: as in ours
SIGMA_MAX = 20.0


@dataclass(frozen=True)
class Peer:
    """A method with its settings.

    Args:
        cost: model calls of a step.
        sample: pictures `B C H W` in [0, 1] of a task, by a prior, in so many steps.
        masks: whether it is for masks only.
        alike: whether all samples have to be of one measurement.
    """

    library: str
    method: str
    settings: str
    cost: int
    sample: Callable[[Task, Counted, int], Tensor]
    masks: bool = False
    alike: bool = False
