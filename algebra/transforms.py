"""Fast orthonormal real transforms of the last two axes; low precisions are computed in float32.

    fourier    H = Re F - Im F, the discrete Hartley transform: for a real picture it holds each conjugate pair of
               Fourier coefficients as two real numbers, rotated by 45 degrees; it is its own inverse
    dct        DCT-II, by a real FFT of the reordered signal (Makhoul 1980, https://doi.org/10.1109/TASSP.1980.1163351)
    hadamard   Walsh-Hadamard in order of sequency (number of sign changes); sides are powers of two

On devices without complex numbers the first two are products with their matrices, at a cost of sides cubed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .cache import Cache
from .devices import has_complex


def wide(x: Tensor) -> Tensor:
    """x in a precision that transforms know: at least float32."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def hartley(x: Tensor) -> Tensor:
    x = wide(x)
    if not has_complex(x.device):  # cos(a + b) + sin(a + b) = cos a (cos b + sin b) + sin a (cos b - sin b)
        (cos_h, sin_h), (cos_w, sin_w) = (_waves(x.shape[dim], x) for dim in (-2, -1))
        return cos_h @ x @ (cos_w + sin_w) + sin_h @ x @ (cos_w - sin_w)
    spectrum = torch.fft.fft2(x, norm="ortho")
    return spectrum.real - spectrum.imag


_TWIDDLES, _MATRICES = Cache(16), Cache(16)


def _waves(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi i k / n, over sqrt(n)."""

    def make() -> tuple[Tensor, Tensor]:
        index = torch.arange(n, dtype=torch.float64)
        angle = torch.outer(index, index).remainder(n) * (2 * math.pi / n)
        return (angle.cos() / math.sqrt(n)).to(like), (angle.sin() / math.sqrt(n)).to(like)

    return _MATRICES.get(("waves", n, like.dtype, like.device), make)


def _cosines(n: int, like: Tensor) -> Tensor:
    """The matrix of the DCT-II, a row per frequency."""

    def make() -> Tensor:
        k = torch.arange(n, dtype=torch.float64)
        matrix = torch.cos((2 * k + 1) * k[:, None] * (math.pi / (2 * n))) * math.sqrt(2 / n)
        matrix[0] /= math.sqrt(2)
        return matrix.to(like)

    return _MATRICES.get(("cosines", n, like.dtype, like.device), make)


def _twiddle(n: int, like: Tensor) -> Tensor:
    """sqrt(2/n) e^{-i pi k / 2n} for k = 0 .. n/2, and the DC coefficient's own factor."""

    def make() -> Tensor:
        angle = torch.arange(n // 2 + 1, dtype=torch.float64) * (-math.pi / (2 * n))
        factor = torch.polar(torch.full_like(angle, math.sqrt(2 / n)), angle)
        factor[0] /= math.sqrt(2)
        return factor.to(torch.complex128 if like.dtype == torch.float64 else torch.complex64).to(like.device)

    return _TWIDDLES.get((n, like.dtype, like.device), make)


def _dct_last(x: Tensor) -> Tensor:
    n = x.shape[-1]
    if not has_complex(x.device):
        return x @ _cosines(n, x).mT
    reordered = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1)
    c = torch.fft.rfft(reordered) * _twiddle(n, x)
    # coefficient k is Re c_k and n - k is -Im c_k
    return torch.cat([c.real, -c.imag[..., 1 : (n + 1) // 2].flip(-1)], -1)


def _idct_last(x: Tensor) -> Tensor:
    n = x.shape[-1]
    if not has_complex(x.device):
        return x @ _cosines(n, x)
    half = n // 2 + 1
    imaginary = torch.cat([torch.zeros_like(x[..., :1]), x.flip(-1)[..., : half - 1]], -1)
    c = torch.complex(x[..., :half].contiguous(), -imaginary) / _twiddle(n, x)
    reordered = torch.fft.irfft(c, n)
    out = torch.empty_like(reordered)
    out[..., ::2] = reordered[..., : (n + 1) // 2]
    out[..., 1::2] = reordered[..., (n + 1) // 2 :].flip(-1)
    return out


def dct(x: Tensor) -> Tensor:
    return _dct_last(_dct_last(wide(x)).mT).mT


def idct(x: Tensor) -> Tensor:
    return _idct_last(_idct_last(wide(x)).mT).mT


def sylvester(n: int, like: Tensor) -> Tensor:
    """The n x n Hadamard matrix with entries +-1, in natural order; n a power of two."""

    def make() -> Tensor:
        index = torch.arange(n)
        both = index[:, None] & index
        parity = sum((both >> bit) & 1 for bit in range(n.bit_length())) % 2
        return (1 - 2 * parity).to(like)

    return _MATRICES.get(("sylvester", n, like.dtype, like.device), make)


def sequency_order(n: int) -> Tensor:
    """Row of the natural-order matrix that has k sign changes: the bit-reversed Gray code of k."""
    k = torch.arange(n)
    gray, bits = k ^ (k >> 1), n.bit_length() - 1
    return sum(((gray >> bit) & 1) << (bits - 1 - bit) for bit in range(bits)) if bits else k


def _natural_hadamard_rows(x: Tensor) -> Tensor:
    """Natural-order transform of axis -2; H_n = H_a (x) H_b with a, b near sqrt(n) keeps it near linear in n."""
    n, columns = x.shape[-2:]
    a = 1 << ((n.bit_length() - 1) // 2)
    b = n // a
    x = sylvester(a, x) @ x.reshape(*x.shape[:-2], a, b * columns)
    x = sylvester(b, x) @ x.reshape(*x.shape[:-2], a, b, columns)
    return x.reshape(*x.shape[:-3], n, columns) / math.sqrt(n)


def _hadamard_rows(x: Tensor) -> Tensor:
    return _natural_hadamard_rows(x).index_select(-2, _orders(x.shape[-2], x.device)[0])


def _ihadamard_rows(x: Tensor) -> Tensor:
    return _natural_hadamard_rows(x.index_select(-2, _orders(x.shape[-2], x.device)[1]))


def _orders(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """From natural order to that of sequency, and back."""

    def make() -> tuple[Tensor, Tensor]:
        order = sequency_order(n)
        return order.to(device), torch.argsort(order).to(device)

    return _MATRICES.get(("orders", n, device), make)


def hadamard(x: Tensor) -> Tensor:
    return _hadamard_rows(_hadamard_rows(wide(x)).mT).mT


def ihadamard(x: Tensor) -> Tensor:
    return _ihadamard_rows(_ihadamard_rows(wide(x)).mT).mT


class Transform(NamedTuple):
    """An orthonormal transform of `... H W` and its inverse."""

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


TRANSFORMS = {
    "hadamard": Transform(hadamard, ihadamard),
    "dct": Transform(dct, idct),
    "fourier": Transform(hartley, hartley),
}
