"""A blur that changes over the picture: kernels on a grid, blended between its nodes (Nagy and O'Leary 1998,
https://doi.org/10.1137/S106482759528507X).

    A x = sum_i k_i * (w_i x),    w_i >= 0, sum_i w_i = 1

Each w_i is a bilinear bump around its node: light that starts at a pixel is spread by the kernel blended there.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..algebra.cache import Cache
from ..algebra.checkpoint import checkpoint
from ..algebra.refusal import Refusal
from .base import LinearOperator
from .convolution import CircularConvolution


def bumps(nodes: int, n: int) -> Tensor:
    """Piecewise linear partition of unity, `nodes n`: the first node is at the first pixel, the last at the last."""
    position = torch.linspace(0, nodes - 1, n, dtype=torch.float64)
    return (1 - (position - torch.arange(nodes)[:, None]).abs()).clamp_min(0)


class VaryingBlur(LinearOperator):
    """A x = sum_i k_i * (w_i x) with periodic borders, one forward FFT per kernel and one back.

    Args:
        kernels: `n 1 h w`, odd sides; node by node, row by row.
        columns: how many nodes there are in a row; n must be a multiple.

    Raises:
        Refusal: when the kernels do not fill the grid, or have an even side.
    """

    label = "Varying blur"

    def __init__(self, kernels: Tensor, columns: int):
        if columns < 1 or kernels.shape[0] % columns:
            raise Refusal(f"{kernels.shape[0]} kernels do not fill rows of {columns}; give whole rows.")
        self._blur = CircularConvolution(kernels.movedim(0, 1))
        self.rows, self.columns = kernels.shape[0] // columns, columns
        self._cache = Cache()
        self.nearby = CircularConvolution(kernels.mean(0, keepdim=True))

    def check(self, image_shape: tuple[int, int, int]) -> None:
        self._blur.check(image_shape)

    def _weights(self, x: Tensor) -> Tensor:
        def make() -> Tensor:
            rows, columns = bumps(self.rows, x.shape[-2]), bumps(self.columns, x.shape[-1])
            return torch.einsum("ah,bw->abhw", rows, columns).flatten(0, 1).to(x)

        return self._cache.get((*x.shape[-2:], x.dtype, x.device), make)

    def _parts(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """w_i and the transform of k_i. Kernel by kernel: a few planes at a time stay in the processor's cache."""
        for part in zip(self._weights(x), self._blur.transfer(x)[0], strict=True):
            checkpoint()
            yield part

    def forward(self, x: Tensor) -> Tensor:
        parts = self._parts(x)
        spectrum = sum(transfer * self._blur.to_spectrum(weight * x) for weight, transfer in parts)
        return self._blur.from_spectrum(spectrum, tuple(x.shape[1:])).to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        spectrum, shape = self._blur.to_spectrum(y), tuple(y.shape[1:])
        parts = self._parts(y)
        x = sum(weight * self._blur.from_spectrum(transfer.conj() * spectrum, shape) for weight, transfer in parts)
        return x.to(y.dtype)
