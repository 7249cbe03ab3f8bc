"""Any small linear measurement, given as a matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import Refusal
from .spectral import SpectralOperator
from .views import log_picture


class Dense(SpectralOperator):
    """y = A x with a matrix, decomposed once: A = U diag(s) V^T with a full V, which only the spectrum needs.

    Args:
        matrix: A, `m CHW`, m <= CHW.
        shape: (C, H, W) of the pictures; y is `B m`.

    Raises:
        Refusal: when the matrix and the shape do not fit.
    """

    label = "A matrix"
    pictorial = False

    def __init__(self, matrix: Tensor, shape: tuple[int, int, int]):
        if matrix.shape[1] != math.prod(shape) or matrix.shape[0] > matrix.shape[1]:
            raise Refusal(
                f"The matrix is {matrix.shape[0]} x {matrix.shape[1]} and the picture has {math.prod(shape)} values; "
                "give as many columns, and no more rows."
            )
        self.shape, self.matrix = tuple(shape), matrix
        self.u, s, self.vh = torch.linalg.svd(matrix, full_matrices=True)
        self.s = torch.cat([s, s.new_zeros(matrix.shape[1] - len(s))])

    def image_shape(self, measurement_shape: tuple[int, ...]) -> tuple[int, int, int]:
        return self.shape

    def measurement_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        return (len(self.u),)

    def check(self, image_shape: tuple[int, int, int]) -> None:
        if tuple(image_shape) != self.shape:
            raise Refusal(f"The matrix is made for pictures of shape {self.shape}, not {tuple(image_shape)}.")

    def picture(self, y: Tensor) -> Tensor:
        """The numbers as one line."""
        return log_picture(y[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.T

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix).reshape(-1, *self.shape)

    def prox(self, z: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
        return z + self.adjoint(self.solve(y - self.forward(z), rho))

    def singular_values(self, image: Tensor) -> Tensor:
        return self.s

    def to_spectrum(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.vh.T

    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return (c @ self.vh).reshape(-1, *image_shape)

    def measurement_to_spectrum(self, y: Tensor) -> Tensor:
        return torch.nn.functional.pad(y @ self.u, (0, len(self.s) - len(self.u)))

    def measurement_from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return c[:, : len(self.u)] @ self.u.T
