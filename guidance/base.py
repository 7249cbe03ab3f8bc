"""The contract of a guidance block: one approximation of grad log p(y given x_t), or of x0_hat(y) itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..operators.base import moved
from ..operators.errors import Refusal
from ..operators.measurement import Measurement
from .state import Estimate, Level, State, Step, predict


@dataclass(frozen=True)
class Guidance(ABC):
    """One measurement and one method of listening to it.

    A block gets the prior at x_t (`State`) and the estimate that earlier blocks have made of x_0, and returns its
    own. With one block the two are the same: `x0 is state.x0`.
    """

    measurement: Measurement

    #: the method in plain words, for messages
    label = "Guidance"
    #: whether `State.vjp` is needed, which costs a backward pass through the prior
    jacobian = False
    #: whether `transition` changes the step, so that only a sampler that owns its trajectory will do
    owns_transition = False

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raises Refusal when this measurement cannot be used by this method."""

    @abstractmethod
    def estimate(self, state: State, x0: Tensor) -> Estimate:
        """x0_hat(y) from the prior's prediction. x0: the estimate so far, `B C H W`."""

    def transition(self, x_s: Tensor, step: Step) -> Tensor:
        """x_s after the step; by default as the sampler made it."""
        return x_s

    def require_linear(self) -> None:
        """Refuses nonlinear operators."""
        if not self.measurement.operator.linear:
            raise Refusal(
                f"{self.label} needs a linear operator, and {self.measurement.operator.label} is not; choose DPS instead."
            )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Guidance:
        """The same block with its tensors on `device`, in `dtype`."""
        return moved(self, device, dtype)


def combine(blocks: Sequence[Guidance], state: State) -> Estimate:
    """Any number of blocks at one state: estimates are handed on, shifts add up, the prior is asked once."""
    x0, shift = state.x0, 0.0
    for block in blocks:
        x0, own = block.estimate(state, x0)
        shift = shift + own
    return Estimate(x0, shift)


def conditional_denoiser(
    denoiser: Callable[[Tensor, Level], Tensor], blocks: Sequence[Guidance]
) -> Callable[..., Estimate]:
    """The guided prior `(x_t, t, s, progress) -> Estimate` of a plain denoiser `(x_t, t) -> x0_hat`."""
    jacobian = any(block.jacobian for block in blocks)

    def guided(x_t: Tensor, t: Level, s: Level | None = None, progress: float = 0.0) -> Estimate:
        return combine(blocks, predict(denoiser, x_t, t, jacobian, s=s, progress=progress))

    return guided
