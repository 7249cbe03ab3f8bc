"""Any small linear measurement, given as a matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from ..algebra.views import log_picture
from .spectral import SpectralOperator


class Dense(SpectralOperator):
    """y = A x with a matrix, decomposed once: A = U diag(s) V^T.

    The first m columns of V span the rows of A (V_m); the others, mostly very many, are never formed. With E the first
    m unit vectors and E^T V_m = P Q the polar decomposition, P >= 0, one block reflection H gives them all:

        H = I - W (I + P)^-1 W^T,    W = -V_m Q^T - E,    so that    H E = -V_m Q^T,    H H = I

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
        self.u, s, rows = torch.linalg.svd(matrix, full_matrices=False)
        self.s = torch.cat([s, s.new_zeros(matrix.shape[1] - len(s))])
        p, lengths, q = torch.linalg.svd(rows.T[: len(s)])
        self.turn = -p @ q
        self.w = rows.T @ self.turn.T
        self.w.diagonal().sub_(1)
        self.inner = p @ torch.diag(1 / (1 + lengths)) @ p.T

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

    def _reflected(self, x: Tensor) -> Tensor:
        return x - x @ self.w @ self.inner @ self.w.T

    def to_spectrum(self, x: Tensor) -> Tensor:
        c, m = self._reflected(x.flatten(1)), len(self.u)
        return torch.cat([c[:, :m] @ self.turn, c[:, m:]], 1)

    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        m = len(self.u)
        return self._reflected(torch.cat([c[:, :m] @ self.turn.T, c[:, m:]], 1)).reshape(-1, *image_shape)

    def measurement_to_spectrum(self, y: Tensor) -> Tensor:
        return torch.nn.functional.pad(y @ self.u, (0, len(self.s) - len(self.u)))

    def measurement_from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return c[:, : len(self.u)] @ self.u.T
