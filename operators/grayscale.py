"""Colorization: only the brightness was recorded."""

from __future__ import annotations

import torch
from torch import Tensor

from ..algebra.reflection import reflect
from ..algebra.refusal import Refusal
from .spectral import SpectralOperator

#: luma of ITU-R BT.601 (https://www.itu.int/rec/R-REC-BT.601), which JPEG and Pillow use
LUMA = (0.299, 0.587, 0.114)


class Grayscale(SpectralOperator):
    """y = w . (R, G, B), `B 1 H W`. One singular value norm(w) per pixel; V is a reflection of w / norm(w).

    Args:
        weights: w, three numbers >= 0; by default they add up to 1, so that a grey picture keeps its value.
    """

    label = "Grayscale"
    aligned = True

    def __init__(self, weights: tuple[float, float, float] = LUMA):
        self.weights = torch.tensor(weights, dtype=torch.float64)

    def image_shape(self, measurement_shape: tuple[int, ...]) -> tuple[int, int, int]:
        return 3, *measurement_shape[2:]

    def measurement_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        return 1, *image_shape[1:]

    def check(self, image_shape: tuple[int, int, int]) -> None:
        if image_shape[0] != 3:
            raise Refusal(f"Grayscale starts from three colours, not {image_shape[0]}; give red, green and blue.")

    def read(self, image: Tensor) -> Tensor:
        """A grey picture may come with three equal colours."""
        return self.forward(image) if image.shape[1] == 3 else image

    @property
    def luma(self) -> Tensor:
        return self.weights

    def _w(self, like: Tensor) -> Tensor:
        return self.weights.to(like)

    def _reflect(self, x: Tensor) -> Tensor:
        w = self._w(x)
        return reflect(x.movedim(1, -1), w / w.norm()).movedim(-1, 1)

    def singular_values(self, image: Tensor) -> Tensor:
        s = image.new_zeros(1, 3, 1, 1)
        s[:, 0] = self._w(image).norm()
        return s

    def to_spectrum(self, x: Tensor) -> Tensor:
        return self._reflect(x)

    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return self._reflect(c)

    def measurement_to_spectrum(self, y: Tensor) -> Tensor:
        return torch.nn.functional.pad(y, (0, 0, 0, 0, 0, 2))

    def measurement_from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return c[:, :1]

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,c->bhw", x, self._w(x))[:, None]

    def adjoint(self, y: Tensor) -> Tensor:
        return y * self._w(y)[:, None, None]
