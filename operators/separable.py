"""Operators that treat rows and columns on their own: A = A_h (x) A_w, Y = A_h X A_w^T.

With A_h = U_h diag(s_h) V_h^T and the like for the width, A has the singular values s_h s_w^T and the singular vectors
U_h (x) U_w, V_h (x) V_w: two small dense decompositions, made once, are exact for the whole picture at any border. The
rows of both matrices must be independent, which those of resampling are.
The product itself uses that the matrices are banded and is linear in the number of pixels.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..algebra.cache import Cache
from .spectral import SpectralOperator


class Banded:
    """A matrix with few entries near its diagonal, applied to axis -2 in blocks of rows.

    Args:
        matrix: `m n`, on the CPU; each block of rows is multiplied with just the columns that it touches.
        like: whose device and dtype the product has.
        block: rows per block.
    """

    def __init__(self, matrix: Tensor, like: Tensor, block: int = 32):
        self.m, n = matrix.shape
        blocks = -(-self.m // block)
        rows = pad(matrix, (0, 0, 0, blocks * block - self.m)).reshape(blocks, block, n)
        touched = (rows != 0).any(1)
        first = touched.int().argmax(1)
        last = n - 1 - touched.flip(1).int().argmax(1)
        width = min(int((last - first).max()) + 1, n)
        columns = first.clamp(max=n - width)[:, None] + torch.arange(width)
        self.columns = columns.flatten().to(like.device)
        self.weights = rows.gather(2, columns[:, None].expand(-1, block, -1)).contiguous().to(like)

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
            matrix = self.matrix(n, dim)
            return Banded(matrix.mT if transposed else matrix, like)

        return self._bands.get((n, dim, transposed, like.dtype, like.device), make)

    def _left(self, n: int, dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """U and s of one axis, from the small A A^T; s is filled up with zeros to n."""

        def make() -> tuple[Tensor, Tensor]:
            matrix = self.matrix(n, dim)
            squares, u = torch.linalg.eigh(matrix @ matrix.mT)
            s = squares.clamp_min(0).sqrt()
            return u.to(like), pad(s, (0, n - len(s))).to(like)

        return self._factors.get((n, dim, "left", like.dtype, like.device), make)

    def _right(self, n: int, dim: int, like: Tensor) -> Tensor:
        """V of one axis: A^T U / s, completed to an orthonormal basis."""

        def make() -> Tensor:
            u, s = self._left(n, dim, torch.zeros((), dtype=torch.float64))
            v = self.matrix(n, dim).mT @ u / s[: len(u)]
            q, _ = torch.linalg.qr(v, mode="complete")
            return torch.cat([v, q[:, len(u) :]], 1).to(like)

        return self._factors.get((n, dim, "right", like.dtype, like.device), make)

    def forward(self, x: Tensor) -> Tensor:
        x = self._band(x.shape[-2], -2, False, x)(x)
        return self._band(x.shape[-1], -1, False, x)(x.mT).mT

    def adjoint(self, y: Tensor) -> Tensor:
        _, h, w = self.image_shape(y.shape)
        y = self._band(h, -2, True, y)(y)
        return self._band(w, -1, True, y)(y.mT).mT

    def singular_values(self, image: Tensor) -> Tensor:
        (_, s_h), (_, s_w) = (self._left(image.shape[dim], dim, image) for dim in (-2, -1))
        return torch.outer(s_h, s_w)

    def to_spectrum(self, x: Tensor) -> Tensor:
        v_h, v_w = (self._right(x.shape[dim], dim, x) for dim in (-2, -1))
        return v_h.mT @ x @ v_w

    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        v_h, v_w = (self._right(image_shape[dim], dim, c) for dim in (-2, -1))
        return v_h @ c @ v_w.mT

    def measurement_to_spectrum(self, y: Tensor) -> Tensor:
        _, h, w = self.image_shape(y.shape)
        (u_h, _), (u_w, _) = self._left(h, -2, y), self._left(w, -1, y)
        c = u_h.mT @ y @ u_w
        return pad(c, (0, w - c.shape[-1], 0, h - c.shape[-2]))

    def measurement_from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        (u_h, _), (u_w, _) = (self._left(image_shape[dim], dim, c) for dim in (-2, -1))
        return u_h @ c[..., : len(u_h), : len(u_w)] @ u_w.mT

    # cheaper than through V: the small U and the bands

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(self.solve(y))

    def prox(self, z: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
        return z + self.adjoint(self.solve(y - self.forward(z), rho))
