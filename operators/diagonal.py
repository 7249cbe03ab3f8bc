"""Operators that scale each number of the picture on its own, A = diag(s): U = V = I."""

from __future__ import annotations

from torch import Tensor

from .spectral import SpectralOperator


class Diagonal(SpectralOperator):
    """y = s * x with s >= 0. A subclass gives `singular_values`, `B C H W` up to broadcasting; 0 is not measured."""

    aligned = True
    local = True

    def to_spectrum(self, x: Tensor) -> Tensor:
        return x

    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return c

    def measurement_to_spectrum(self, y: Tensor) -> Tensor:
        return (self.singular_values(y) > 0) * y

    def measurement_from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return (self.singular_values(c) > 0) * c

    def forward(self, x: Tensor) -> Tensor:
        return (self.singular_values(x) * x).to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)


class Weight(Diagonal):
    """y = w * x with given weights.

    Args:
        weight: w > 0, broadcastable against x, which here may have any shape `B ...`.
    """

    label = "Weight"

    def __init__(self, weight: Tensor):
        self.weight = weight

    @property
    def batch(self) -> int:
        return self.weight.shape[0]

    def singular_values(self, image: Tensor) -> Tensor:
        return self.weight


class Mask(Diagonal):
    """y = keep * x with keep in {0, 1}; y is 0 where nothing was measured. A subclass gives `singular_values`."""

    def support(self, y: Tensor) -> Tensor:
        keep = self.singular_values(y)
        return keep.expand(max(keep.shape[0], y.shape[0]), *y.shape[1:])

    def pinv(self, y: Tensor) -> Tensor:
        return self.forward(y)
