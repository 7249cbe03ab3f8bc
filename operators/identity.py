"""The picture itself was measured, A = I, or a multiple of it."""

from __future__ import annotations

from torch import Tensor

from ..algebra.refusal import Refusal
from .diagonal import Diagonal


class Scale(Diagonal):
    """y = a x: a darker or brighter picture. All singular values are a.

    A faded picture a x + b is read as y = a x, so that the operator stays linear.

    Args:
        factor: a > 0.
        offset: b, image units, taken off a picture that is read.

    Raises:
        Refusal: when a is not positive.
    """

    label = "Scale"

    def __init__(self, factor: float, offset: float = 0.0):
        if not factor > 0:
            raise Refusal(f"The scale is {factor:g}; give a number above 0.")
        self.factor, self.offset = factor, offset

    def read(self, image: Tensor) -> Tensor:
        return image - self.offset if self.offset else image

    def singular_values(self, image: Tensor) -> Tensor:
        return image.new_full((1, 1, 1, 1), self.factor)


class Identity(Scale):
    """y = x + sigma_y z: denoising. All singular values are 1."""

    label = "Identity"

    def __init__(self):
        super().__init__(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return x
