"""A frame that shows only a part of the picture; turned around, outpainting."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad

from ..algebra.refusal import Refusal
from .spectral import SpectralOperator


class Crop(SpectralOperator):
    """y is x without its borders: A = [0 I 0], singular values 1 inside and 0 in the border, V = I.

    Args:
        left, top, right, bottom: width of the borders that y does not show, pixels, >= 0.

    Raises:
        Refusal: when no border is left out.
    """

    label = "Outpainting"
    aligned = True
    local = True

    def __init__(self, left: int, top: int, right: int, bottom: int):
        if min(left, top, right, bottom) < 0 or max(left, top, right, bottom) == 0:
            raise Refusal("There is no border to infer; give at least one side a width above 0 pixels.")
        self.left, self.top, self.right, self.bottom = left, top, right, bottom

    def image_shape(self, measurement_shape: tuple[int, ...]) -> tuple[int, int, int]:
        _, channels, height, width = measurement_shape
        return channels, height + self.top + self.bottom, width + self.left + self.right

    def measurement_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        channels, height, width = image_shape
        return channels, height - self.top - self.bottom, width - self.left - self.right

    def check(self, image_shape: tuple[int, int, int]) -> None:
        _, height, width = image_shape
        if height <= self.top + self.bottom or width <= self.left + self.right:
            raise Refusal(
                f"The borders leave nothing of a {width} x {height} picture; make them narrower, or the picture larger."
            )

    def singular_values(self, image: Tensor) -> Tensor:
        return self.measurement_to_spectrum(self.forward(image.new_ones(1, 1, *image.shape[-2:])))

    def to_spectrum(self, x: Tensor) -> Tensor:
        return x

    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return c

    def measurement_to_spectrum(self, y: Tensor) -> Tensor:
        return pad(y, (self.left, self.right, self.top, self.bottom))

    def measurement_from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return self.forward(c)

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self.top : x.shape[-2] - self.bottom, self.left : x.shape[-1] - self.right]

    def adjoint(self, y: Tensor) -> Tensor:
        return self.measurement_to_spectrum(y)
