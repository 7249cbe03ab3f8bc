"""The contract of a guidance block: one approximation of grad log p(y given x_t), or of x0_hat(y) itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..algebra.moved import moved, taken
from ..algebra.refusal import Refusal
from ..diffusion.state import Estimate, State, Step
from ..measurement.measurement import Measurement
from ..operators.spectral import SpectralOperator
from .timing import ALWAYS, Timing


@dataclass(frozen=True)
class Guidance:
    """One measurement and one method of listening to it.

    A block is a conditional denoiser (`estimate`), changes the step itself (`transition`), or both. It gets the prior
    at x_t (`State`) and the estimate that earlier blocks have made of x_0, and returns its own. With one block the two
    are the same: `x0 is state.x0`. This class by itself listens to nothing: it hands a measurement to samplers that
    bring it in by their own means.

    Args:
        measurement: y, A and the noise.
        timing: when the block listens, and how much.
    """

    measurement: Measurement
    timing: Timing = field(default=ALWAYS, kw_only=True)

    #: the method in plain words, for messages
    label = "Guidance"
    #: whether `State.vjp` is needed, which costs a backward pass through the prior
    jacobian = False
    #: whether the method lives in `transition`, so that only a sampler that owns its trajectory will do
    owns_transition = False
    #: what the measurement must be: "linear", "spectral" (with singular values), "noisy" (sigma_y > 0)
    needs: ClassVar[tuple[str, ...]] = ()
    #: whether the method knows one noise level only, so that other noise is whitened first
    whitens: ClassVar[bool] = False
    #: the field that scales all that the method does
    factor: ClassVar[str] = ""

    @property
    def active(self) -> bool:
        """Whether the block does anything; one that does not is left out, so that nothing changes by a single bit."""
        return bool(self.timing.strength) and (not self.factor or getattr(self, self.factor) != 0)

    @property
    def latent(self) -> Literal["composed", "linearised", "pictures", "only"]:
        """How the method meets a latent model: see `guidance.latent`."""
        return "linearised" if self.jacobian and "linear" in self.needs and not self.owns_transition else "composed"

    def __post_init__(self) -> None:
        if self.whitens and self.measurement.operator.linear:
            object.__setattr__(self, "measurement", self.measurement.whitened())
        self.validate()
        object.__setattr__(self, "measurement", self.measurement.resolved())

    def validate(self) -> None:
        """Raises Refusal when this measurement cannot be used by this method."""
        operator = self.measurement.operator
        if "linear" in self.needs and not operator.linear:
            raise Refusal(f"{self.label} needs a linear operator, and {operator.label} is not; choose DPS instead.")
        if "spectral" in self.needs and not isinstance(operator, SpectralOperator):
            raise Refusal(
                f"{self.label} needs singular values, which {operator.label} does not have; choose DiffPIR instead."
            )
        if "noisy" in self.needs and not self.measurement.noisy:
            raise Refusal(f"{self.label} needs a noise level above 0; raise it, or choose DDNM for clean measurements.")

    @property
    def variance(self) -> float | Tensor:
        """sigma_y^2, a number or broadcastable against y."""
        return self.measurement.noise.deviation(self.measurement.y) ** 2

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        """x0_hat(y) from the prior's prediction; by default as it is. x0: the estimate so far, `B C H W`."""
        return Estimate(x0)

    def transition(self, x_s: Tensor, step: Step) -> Tensor:
        """x_s after the step; by default as the sampler made it."""
        return x_s

    def observing(self, measurement: Measurement) -> Guidance:
        """The same block with another measurement, in the same coordinates."""
        return replace(self, measurement=measurement)

    def take(self, index: Tensor) -> Guidance:
        """The same block for some of the samples. index: int64; one may come several times."""
        return taken(self, index, 0)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Guidance:
        """The same block with its tensors on `device`, in `dtype`."""
        return moved(self, device, dtype)
