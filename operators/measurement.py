"""A measurement: what was seen (y), how it came about (A) and how much it scatters (the noise)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Operator, moved
from .errors import Refusal
from .noise import GaussianNoise


@dataclass(frozen=True)
class Measurement:
    """y = A(x) + noise.

    Args:
        operator: A.
        y: `B ...`, what was measured, image units; entries outside the operator's support are 0.
        noise: how y scatters around A(x).
    """

    operator: Operator
    y: Tensor
    noise: GaussianNoise

    @classmethod
    def observe(cls, operator: Operator, image: Tensor, noise: GaussianNoise) -> Measurement:
        """A picture that is already damaged. image: `B C H W`, in the shape of a measurement.

        Raises:
            Refusal: when the picture is not finite, or has a size that the operator cannot give.
        """
        require_finite(image)
        operator.check(operator.image_shape(image.shape))
        support = operator.support(image)
        return cls(operator, image if support is None else image * support, noise)

    @classmethod
    def simulate(cls, operator: Operator, image: Tensor, noise: GaussianNoise, seed: int) -> Measurement:
        """Damages a clean picture: y = A(x) + noise. image: `B C H W` in [0, 1]."""
        require_finite(image)
        operator.check(tuple(image.shape[1:]))
        y = noise.sample(operator.forward(image), seed)
        support = operator.support(y)
        return cls(operator, y if support is None else y * support, noise)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the pictures that this measurement speaks of."""
        return self.operator.image_shape(self.y.shape)

    def residual(self, x: Tensor) -> Tensor:
        """y - A(x). x: `B C H W` in image units."""
        return self.y - self.operator.forward(x)

    def residual_rms(self, x: Tensor) -> Tensor:
        """Root mean square of the residual over what was measured, per sample, in image units."""
        return self._rms(self.residual(x))

    def fit(self, x: Tensor) -> Tensor:
        """RMS of residual / sigma_y per sample: near 1 is a fit, above misses data, far below fits noise.

        Infinite where sigma_y = 0 and the residual is not.
        """
        residual = self.residual(x)
        return self._rms(residual / self.noise.deviation(self.y - residual))

    def _rms(self, residual: Tensor) -> Tensor:
        square = residual.abs().double() ** 2
        support = self.operator.support(self.y)
        if support is None:
            return square.flatten(1).mean(1).sqrt()
        weight = support.expand_as(square)
        return ((square.nan_to_num() * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)).sqrt()

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Measurement:
        return moved(self, device, dtype)


def require_finite(image: Tensor) -> None:
    """Refuses a picture with NaN or infinite values."""
    if not torch.isfinite(image).all():
        raise Refusal("The picture contains NaN or infinite values; check the node that makes it.")
