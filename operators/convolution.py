"""Blur: A x = k * x, a convolution with a known kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import Refusal
from .spectral import SpectralOperator


class CircularConvolution(SpectralOperator):
    """y = k * x with periodic borders: A = F^H diag(k_hat) F.

    F is the orthonormal discrete Fourier transform, s = |k_hat|, and the phase of k_hat belongs to U, so that
    every inverse is one FFT round trip.

    Args:
        kernel: `1 1 h w` or `1 C h w` (one kernel per colour), h and w odd, its centre is the origin.

    Raises:
        Refusal: when the kernel has an even side.
    """

    label = "Blur"

    def __init__(self, kernel: Tensor):
        if kernel.shape[-1] % 2 == 0 or kernel.shape[-2] % 2 == 0:
            raise Refusal(
                f"The blur kernel is {kernel.shape[-1]} x {kernel.shape[-2]}; give it odd sides, so that it has a centre."
            )
        self.kernel = kernel
        self._transfer: dict[tuple, Tensor] = {}

    def check(self, image_shape: tuple[int, int, int]) -> None:
        (h, w), (rows, columns) = self.kernel.shape[-2:], image_shape[-2:]
        if h > rows or w > columns:
            raise Refusal(
                f"The blur kernel ({w} x {h}) is larger than the picture ({columns} x {rows}); use a smaller blur."
            )

    def transfer(self, image: Tensor) -> Tensor:
        """k_hat, the unnormalised transform of the kernel laid around the origin; made once per size."""
        key = (*image.shape[-2:], image.dtype, image.device)
        if key not in self._transfer:
            h, w = self.kernel.shape[-2:]
            padded = image.new_zeros(*self.kernel.shape[:2], *image.shape[-2:])
            padded[..., :h, :w] = self.kernel
            self._transfer[key] = torch.fft.rfft2(padded.roll((-(h // 2), -(w // 2)), (-2, -1)))
        return self._transfer[key]

    def _phase(self, image: Tensor) -> Tensor:
        return torch.sgn(self.transfer(image))

    def singular_values(self, image: Tensor) -> Tensor:
        return self.transfer(image).abs()

    def to_spectrum(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(x, norm="ortho")

    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return torch.fft.irfft2(c, s=image_shape[-2:], norm="ortho")

    def measurement_to_spectrum(self, y: Tensor) -> Tensor:
        return self._phase(y).conj() * self.to_spectrum(y)

    def measurement_from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        phase = self._phase(c.real.new_empty(0, *image_shape))
        return self.from_spectrum(phase * c, image_shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.from_spectrum(self.transfer(x) * self.to_spectrum(x), tuple(x.shape[1:]))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.from_spectrum(self.transfer(y).conj() * self.to_spectrum(y), tuple(y.shape[1:]))
