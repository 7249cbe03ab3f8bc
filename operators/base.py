"""The contract of a measurement operator A, with y = A(x) + sigma_y z.

Images x are `B C H W` floats in [0, 1]; measurements y have any shape that starts with the batch.
An operator is immutable: what it holds (a mask, a kernel) is set when it is made, and `to` returns a
moved copy. One mask per sample is a tensor with a batch dimension, broadcast against x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..algebra.autograd import pulled_back, traced
from ..algebra.krylov import conjugate_gradient
from ..algebra.moved import moved, taken
from ..algebra.refusal import Refusal

if TYPE_CHECKING:
    from .family import Family


class Operator(ABC):
    """What happened to the picture: y = A(x). Subclasses say whether they are linear and what they can invert."""

    linear: bool = False
    #: the operator in plain words, for messages and reports
    label: str = "operator"
    #: whether y is itself a picture, so that a damaged IMAGE can be a measurement
    pictorial: bool = True
    #: whether each number of the picture is measured on its own or not at all, so that others can be continued from it
    local: bool = False
    #: whether it was done as the file was saved, so that whatever covers the picture was there before
    saves: bool = False
    #: weights w of red, green and blue where nothing but w . x was measured of each pixel's colour
    luma: Tensor | None = None
    #: the operators A(theta) of which this one was chosen by its numbers, starting at it; see `family.told`
    family: Family | None = None
    #: whether its numbers are no more than a first guess, for whoever can look for better ones
    unknown: bool = False

    @property
    def batch(self) -> int:
        """How many pictures the operator is made for; 1 when it does the same to each."""
        return 1

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A(x). x: `B C H W`. Returns y: `B ...`."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def image_shape(self, measurement_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(C, H, W) of the picture that gives a measurement of shape `B ...`; by default the same as y's."""
        return tuple(measurement_shape[1:])

    def measurement_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """The shape of y without its batch, for a picture of (C, H, W); by default the same."""
        return tuple(image_shape)

    def check(self, image_shape: tuple[int, int, int]) -> None:  # noqa: B027
        """Raises Refusal when a picture of (C, H, W) cannot be measured by this operator."""

    def read(self, image: Tensor) -> Tensor:
        """A damaged picture, `B C H W`, as a measurement y.

        Raises:
            Refusal: when this operator's measurements are not pictures.
        """
        if not self.pictorial:
            raise Refusal(f"What {self.label} measures is not a picture; make the measurement with Simulate instead.")
        return image

    def picture(self, y: Tensor) -> Tensor:
        """y for the eye, `B 3 H W` or `B 1 H W`, nominally in [0, 1]."""
        return y

    def support(self, y: Tensor) -> Tensor | None:
        """1 where y holds a measurement, 0 where it is filler; None when all of it is measured."""
        return None

    def spread(self, y: Tensor) -> Tensor | None:
        """Standard deviation that the operator itself adds to y (a soft mask edge); None for none."""
        return None

    def reach(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """Where y depends on hidden pixels by more than half a step of 8 bits; for operators that measure pictures.

        Found by trial: the hidden part is made white, black and random, the rest stays grey.

        Args:
            hidden: `B 1 H W`, bool.

        Returns:
            `B 1 h w`, bool; and where y is noisier for what is hidden, by which standard deviation, None for nowhere.
        """
        grey = torch.full((len(hidden), 3, *hidden.shape[-2:]), 0.5, device=hidden.device)
        generator = torch.Generator().manual_seed(0)
        trials = [torch.zeros_like(grey), torch.ones_like(grey)]
        trials += [torch.rand(grey.shape, generator=generator).round().to(grey) for _ in range(2)]
        seen = torch.stack([self.forward(torch.where(hidden, trial, grey)) for trial in trials])
        return (seen.amax(0) - seen.amin(0) > 0.5 / 255).any(1, keepdim=True), None

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """J_A(x)^T v. x: `B C H W`, v: shape of y."""
        return self.linearise(x)[1](v)

    def linearise(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """A(x), and the map v to J_A(x)^T v, both from one pass; by automatic differentiation."""
        leaf, y = traced(self.forward, x)
        return y.detach(), lambda v: pulled_back(y, leaf, v, keep=True)

    def pinv(self, y: Tensor) -> Tensor:
        """A^+ y, or a generalised inverse with A(A^+(A(x))) = A(x). Returns `B C H W`."""
        raise Refusal(f"{self.label} has no inverse; choose DPS, which needs none.")

    def take(self, index: Tensor) -> Operator:
        """The same operator for some of the pictures that it is made for. index: int64."""
        return self if self.batch == 1 else taken(self, index, self.batch)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Operator:
        """The same operator with its tensors on `device`, in `dtype`."""
        return moved(self, device, dtype)


class LinearOperator(Operator):
    """y = A x. Only `forward` and `adjoint` are required; the inverses fall back on conjugate gradients."""

    linear = True
    #: a SpectralOperator of the same pictures that this one resembles; it speeds up the conjugate gradients of `prox`
    nearby: LinearOperator | None = None

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y. Returns `B C H W`."""

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """The Jacobian of a linear map is the map: A^T v."""
        return self.adjoint(v)

    def linearise(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return self.forward(x), self.adjoint

    def solve(self, r: Tensor, c: float | Tensor = 0.0) -> Tensor:
        """(A A^T + c I)^-1 r, c >= 0; for c = 0 the pseudo-inverse (A A^T)^+ r. Shape of y."""
        if isinstance(c, (int, float)) and c == 0:
            r = self.forward(self.pinv(r))  # what A A^T cannot reach has no solution
        return conjugate_gradient(lambda v: self.forward(self.adjoint(v)) + c * v, r)

    def pinv(self, y: Tensor) -> Tensor:
        """A^+ y, of all x with the least norm(A x - y) the one of least norm(x)."""
        return conjugate_gradient(lambda x: self.adjoint(self.forward(x)), self.adjoint(y))

    def prox(self, z: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
        """argmin_x norm(A x - y)^2 / 2 + rho norm(x - z)^2 / 2 = z + A^T (A A^T + rho I)^-1 (y - A z), rho > 0."""

        def normal_equations(d: Tensor) -> Tensor:
            return self.adjoint(self.forward(d)) + rho * d

        def precondition(d: Tensor) -> Tensor:
            return self.nearby.filter(d, lambda s: 1 / (s**2 + rho))

        b = self.adjoint(y - self.forward(z))
        return z + conjugate_gradient(normal_equations, b, precondition=precondition if self.nearby else None)
