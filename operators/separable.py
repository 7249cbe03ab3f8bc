"""Operators that treat rows and columns on their own: A = A_h (x) A_w, Y = A_h X A_w^T.

With A_h = U_h diag(s_h) V_h^T and the like for the width, A has the singular values s_h s_w^T and the singular vectors
U_h (x) U_w, V_h (x) V_w: two small dense decompositions, made once, are exact for the whole picture at any border.
The product itself uses that the matrices are banded and is linear in the number of pixels.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from .cache import Cache
from .spectral import SpectralOperator


class Banded:
    """A matrix with few entries near its diagonal, applied to axis -2 in blocks of rows.

    Args:
        matrix: `m n`; each block of rows is multiplied with just the columns that it touches.
        block: rows per block.
    """

    def __init__(self, matrix: Tensor, block: int = 32):
        self.m, n = matrix.shape
        blocks = -(-self.m // block)
        rows = torch.nn.functional.pad(matrix, (0, 0, 0, blocks * block - self.m)).reshape(blocks, block, n)
        touched = (rows != 0).any(1)
        first = touched.int().argmax(1)
        last = n - 1 - touched.flip(1).int().argmax(1)
        width = min(int((last - first).max()) + 1, n)
        columns = first.clamp(max=n - width)[:, None] + torch.arange(width, device=matrix.device)
        self.columns = columns.flatten()
        self.weights = rows.gather(2, columns[:, None].expand(-1, block, -1)).contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        blocks, _, width = self.weights.shape
        windows = x.index_select(-2, self.columns).reshape(*x.shape[:-2], blocks, width, x.shape[-1])
        return (self.weights @ windows).flatten(-3, -2)[..., : self.m, :]


class Separable(SpectralOperator):
    """Y = A_h X A_w^T. A subclass gives the two matrices and the shapes."""

    def __init__(self):
        self._bands, self._factors = Cache(16), Cache()

    @abstractmethod
    def matrix(self, n: int, dim: int) -> Tensor:
        """A_h (dim -2) or A_w (dim -1) for n pixels along it, `m n`, float64 on the CPU."""

    def _band(self, n: int, dim: int, transposed: bool, like: Tensor) -> Banded:
        def make() -> Banded:
            matrix = self.matrix(n, dim).to(like)
            return Banded(matrix.mT if transposed else matrix)

        return self._bands.get((n, dim, transposed, like.dtype, like.device), make)

    def _svd(self, n: int, dim: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """U, s and V of one axis, with s filled up with zeros to n."""

        def make() -> tuple[Tensor, Tensor, Tensor]:
            u, s, vh = torch.linalg.svd(self.matrix(n, dim))
            return u.to(like), torch.nn.functional.pad(s, (0, n - len(s))).to(like), vh.mT.to(like)

        return self._factors.get((n, dim, like.dtype, like.device), make)

    def _axes(self, image: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [self._svd(image.shape[dim], dim, image) for dim in (-2, -1)]

    def forward(self, x: Tensor) -> Tensor:
        x = self._band(x.shape[-2], -2, False, x)(x)
        return self._band(x.shape[-1], -1, False, x)(x.mT).mT

    def adjoint(self, y: Tensor) -> Tensor:
        _, h, w = self.image_shape(y.shape)
        y = self._band(h, -2, True, y)(y)
        return self._band(w, -1, True, y)(y.mT).mT

    def singular_values(self, image: Tensor) -> Tensor:
        (_, s_h, _), (_, s_w, _) = self._axes(image)
        return torch.outer(s_h, s_w)

    def to_spectrum(self, x: Tensor) -> Tensor:
        (_, _, v_h), (_, _, v_w) = self._axes(x)
        return v_h.mT @ x @ v_w

    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        (_, _, v_h), (_, _, v_w) = self._axes(c.new_empty(0, *image_shape))
        return v_h @ c @ v_w.mT

    def measurement_to_spectrum(self, y: Tensor) -> Tensor:
        _, h, w = self.image_shape(y.shape)
        (u_h, _, _), (u_w, _, _) = self._axes(y.new_empty(0, 1, h, w))
        c = u_h.mT @ y @ u_w
        return torch.nn.functional.pad(c, (0, w - c.shape[-1], 0, h - c.shape[-2]))

    def measurement_from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        (u_h, _, _), (u_w, _, _) = self._axes(c.new_empty(0, *image_shape))
        return u_h @ c[..., : len(u_h), : len(u_w)] @ u_w.mT

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(self.solve(y))  # cheaper than through V: only the small U and the bands
