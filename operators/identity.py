"""Denoising: the picture itself was measured, A = I."""

from __future__ import annotations

from torch import Tensor

from .spectral import SpectralOperator


class Identity(SpectralOperator):
    """y = x + sigma_y z. All singular values are 1."""

    label = "Identity"

    def singular_values(self, image: Tensor) -> Tensor:
        return image.new_ones(1, 1, 1, 1)

    def to_spectrum(self, x: Tensor) -> Tensor:
        return x

    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return c

    def measurement_to_spectrum(self, y: Tensor) -> Tensor:
        return y

    def measurement_from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return c
