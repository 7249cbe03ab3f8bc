"""The contract of a sampler: a trajectory from noise to a picture, as a function of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from ..diffusion.run import Run


class Sampler(ABC):
    """`sampler(run, x_T) -> x_0`. Settings are the fields of a frozen dataclass."""

    #: the method in plain words, for messages and reports
    label: ClassVar[str] = "Sampler"
    #: whether blocks may change the step itself (`Guidance.transition`)
    transitions: ClassVar[bool] = False
    #: whether it differentiates the prior by itself, besides what the blocks ask for
    jacobian: bool = False

    @abstractmethod
    def __call__(self, run: Run, x: Tensor) -> Tensor:
        """The state at the last level. x: x_T at `run.levels[0]`, `B C H W`."""
