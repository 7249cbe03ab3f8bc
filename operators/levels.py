"""Levels y = a x + b of each colour: exposure, fading, a colour cast."""

from __future__ import annotations

import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from .diagonal import Diagonal


class Levels(Diagonal):
    """y = a x + b. What is held is y - b, so that the operator stays linear; the singular values are a.

    Args:
        gain: a > 0, a number, or one for each colour (`C`), or for each picture as well (`B C 1 1`).
        offset: b, image units, likewise.

    Raises:
        Refusal: when a gain is not positive.
    """

    label = "Levels"

    def __init__(self, gain: float | Tensor, offset: float | Tensor = 0.0):
        self.gain, self.offset = _as_planes(gain), _as_planes(offset)
        if not (self.gain > 0).all():
            raise Refusal(f"The gain is {self.gain.min().item():g}; give a number above 0.")

    @property
    def batch(self) -> int:
        return max(len(self.gain), len(self.offset))

    def read(self, image: Tensor) -> Tensor:
        return image - self.offset.to(image)

    def picture(self, y: Tensor) -> Tensor:
        return y + self.offset.to(y)

    def singular_values(self, image: Tensor) -> Tensor:
        return self.gain.to(image)


def _as_planes(value: float | Tensor) -> Tensor:
    value = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.float32)
    return value if value.ndim == 4 else value.reshape(1, -1, 1, 1)
