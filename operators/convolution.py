"""Blur: A x = k * x, a convolution with a known kernel, by what lies beyond the border.

circular  the picture goes on on the other side: diagonal in Fourier space
reflect   the picture is mirrored at its edge (edge pixels twice: scipy's `reflect`): diagonal in DCT space when
          the kernel has that symmetry as well, else by conjugate gradients
valid     y shows only what is fully known, so the picture is larger than y by the kernel's radius on all sides
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..algebra.cache import Cache
from ..algebra.devices import require_complex
from ..algebra.refusal import Refusal
from ..algebra.transforms import dct, idct, wide
from .base import LinearOperator
from .compose import compose
from .crop import Crop
from .spectral import SpectralOperator

BOUNDARIES = ("reflect", "circular", "valid")
#: what needs no complex numbers, see `require_complex`
SYMMETRIC = ", or choose a symmetric blur with the border reflect"


def require_fit(h: int, w: int, image_shape: tuple[int, int, int]) -> None:
    """Refuses a kernel of h x w that is larger than the picture."""
    _, rows, columns = image_shape
    if h > rows or w > columns:
        raise Refusal(
            f"The blur kernel ({w} x {h}) is larger than the picture ({columns} x {rows}); use a smaller blur."
        )


class Filter(SpectralOperator):
    """y = T^H diag(f) T x with an orthonormal transform T of the picture and a number f for each frequency.

    s = |f|, and the phase (or sign) of f belongs to U, so that every inverse is one pair of transforms.
    """

    @abstractmethod
    def transfer(self, image: Tensor) -> Tensor:
        """f for pictures like `image` (`B C H W`), broadcastable against `to_spectrum(image)`."""

    def singular_values(self, image: Tensor) -> Tensor:
        return self.transfer(image).abs()

    def measurement_to_spectrum(self, y: Tensor) -> Tensor:
        return self.transfer(y).sgn().conj() * self.to_spectrum(y)

    def measurement_from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        phase = self.transfer(c.real.new_empty(0, *image_shape)).sgn()
        return self.from_spectrum(phase * c, image_shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.from_spectrum(self.transfer(x) * self.to_spectrum(x), tuple(x.shape[1:])).to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.from_spectrum(self.transfer(y).conj() * self.to_spectrum(y), tuple(y.shape[1:])).to(y.dtype)


class FourierFilter(Filter):
    """A filter with periodic borders; T is the orthonormal discrete Fourier transform of a real picture."""

    def to_spectrum(self, x: Tensor) -> Tensor:
        require_complex(x.device, self.label, SYMMETRIC)
        return torch.fft.rfft2(wide(x), norm="ortho")

    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return torch.fft.irfft2(c, s=image_shape[-2:], norm="ortho")

    def multiplicity(self, image: Tensor) -> Tensor:
        """Half of the frequencies stand for their conjugates as well."""
        width = image.shape[-1]
        column = torch.arange(width // 2 + 1, device=image.device)
        return torch.where((column == 0) | (2 * column == width), 1.0, 2.0)


class CosineFilter(Filter):
    """A filter with mirrored borders, the same to the left and the right; T is the DCT-II."""

    def to_spectrum(self, x: Tensor) -> Tensor:
        return dct(x)

    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return idct(c)


class Convolution(Filter):
    """y = k * x, where a transform turns it into a product with k_hat.

    Args:
        kernel: `1 1 h w` or `1 C h w` (one kernel per colour), or `B ...` with one for each picture; h and w odd, its
            centre is the origin.

    Raises:
        Refusal: when the kernel has an even side.
    """

    label = "Blur"

    def __init__(self, kernel: Tensor):
        if kernel.shape[-1] % 2 == 0 or kernel.shape[-2] % 2 == 0:
            raise Refusal(
                f"The blur kernel is {kernel.shape[-1]} x {kernel.shape[-2]}; give it odd sides, so that there is a "
                "centre (one row or column of black more will do)."
            )
        self.kernel = kernel
        self._cache = Cache()

    @property
    def batch(self) -> int:
        return len(self.kernel)

    def check(self, image_shape: tuple[int, int, int]) -> None:
        require_fit(*self.kernel.shape[-2:], image_shape)

    @abstractmethod
    def _diagonalise(self, kernel: Tensor) -> Tensor:
        """k_hat of a kernel laid around the origin of an otherwise black picture."""

    def transfer(self, image: Tensor) -> Tensor:
        """k_hat; made once per size."""

        def make() -> Tensor:
            h, w = self.kernel.shape[-2:]
            padded = wide(image).new_zeros(*self.kernel.shape[:2], *image.shape[-2:])
            padded[..., :h, :w] = self.kernel
            return self._diagonalise(padded.roll((-(h // 2), -(w // 2)), (-2, -1)))

        return self._cache.get((*image.shape[-2:], image.dtype, image.device), make, self.kernel)


class CircularConvolution(Convolution, FourierFilter):
    """y = k * x with periodic borders."""

    def _diagonalise(self, kernel: Tensor) -> Tensor:
        require_complex(kernel.device, self.label, SYMMETRIC)
        return torch.fft.rfft2(kernel)


class SymmetricConvolution(Convolution, CosineFilter):
    """y = k * x with mirrored borders, for kernels that are symmetric in both axes.

    The eigenvalues are k_hat(u, v) = sum_{i, j} k(i, j) cos(pi u i / H) cos(pi v j / W) (Strang 1999,
    https://doi.org/10.1137/S0036144598336745).
    """

    def _diagonalise(self, kernel: Tensor) -> Tensor:
        for dim in (-2, -1):
            n = kernel.shape[dim]
            index = torch.arange(n, dtype=torch.float64)
            offset = torch.where(index <= n // 2, index, index - n)
            cosine = torch.cos(torch.outer(index, offset) * (torch.pi / n)).to(kernel)
            kernel = cosine @ kernel if dim == -2 else kernel @ cosine.mT
        return kernel


class Mirror(LinearOperator):
    """Goes on beyond the border by mirroring, edge pixels twice; the adjoint folds the border back.

    Args:
        rows, columns: width of the border above and below, left and right, pixels: a kernel's radius.
    """

    label = "Mirror"

    def __init__(self, rows: int, columns: int):
        self.rows, self.columns = rows, columns

    def image_shape(self, measurement_shape: tuple[int, ...]) -> tuple[int, int, int]:
        _, channels, height, width = measurement_shape
        return channels, height - 2 * self.rows, width - 2 * self.columns

    def measurement_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        channels, height, width = image_shape
        return channels, height + 2 * self.rows, width + 2 * self.columns

    def check(self, image_shape: tuple[int, int, int]) -> None:
        require_fit(2 * self.rows + 1, 2 * self.columns + 1, image_shape)

    @staticmethod
    def _source(n: int, border: int, device: torch.device) -> Tensor:
        """For each pixel of the wider line the pixel that it shows."""
        index = torch.arange(-border, n + border, device=device) % (2 * n)
        return torch.where(index < n, index, 2 * n - 1 - index)

    def forward(self, x: Tensor) -> Tensor:
        x = x.index_select(-2, self._source(x.shape[-2], self.rows, x.device))
        return x.index_select(-1, self._source(x.shape[-1], self.columns, x.device))

    def adjoint(self, y: Tensor) -> Tensor:
        for dim, border in ((-2, self.rows), (-1, self.columns)):
            n = y.shape[dim] - 2 * border
            shape = list(y.shape)
            shape[dim] = n
            y = y.new_zeros(shape).index_add(dim, self._source(n, border, y.device), y)
        return y


def convolution(kernel: Tensor, boundary: str = "reflect") -> LinearOperator:
    """A blur with the given border.

    Args:
        kernel: `1 1 h w` or `1 C h w`, odd sides; `B ...` with one for each picture.
        boundary: one of `BOUNDARIES`.

    Raises:
        Refusal: when the kernel has an even side.
    """
    circular = CircularConvolution(kernel)
    rows, columns = kernel.shape[-2] // 2, kernel.shape[-1] // 2
    if boundary == "circular" or rows == columns == 0:
        return circular
    inner = compose(Crop(columns, rows, columns, rows), circular)
    if boundary == "valid":
        blur = inner
        blur.nearby = circular
    elif all(torch.allclose(kernel, kernel.flip(dim), atol=1e-7) for dim in (-2, -1)):
        blur = SymmetricConvolution(kernel)
    else:
        blur = compose(inner, Mirror(rows, columns))
    blur.label = "Blur"
    return blur
