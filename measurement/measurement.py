"""A measurement: what was seen (y), how it came about (A) and how much it scatters (the noise)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.moved import moved
from ..algebra.refusal import Refusal
from ..operators.base import Operator
from ..operators.compose import compose
from ..operators.diagonal import Weight
from ..operators.stack import stack
from .noise import ROUNDING, GaussianNoise, Noise


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
    noise: Noise

    @classmethod
    def observe(cls, operator: Operator, image: Tensor, noise: Noise) -> Measurement:
        """A picture that is already damaged. image: `B C H W`, in the shape of a measurement.

        Raises:
            Refusal: when the picture is not finite, or cannot be what this operator measures.
        """
        require_finite(image)
        y = operator.read(image)
        operator.check(operator.image_shape(y.shape))
        require_batch(operator, len(y))
        noise.check(tuple(y.shape))
        return cls._of(operator, y, noise)

    @classmethod
    def simulate(cls, operator: Operator, image: Tensor, noise: Noise, seed: int) -> Measurement:
        """Damages a clean picture: y = A(x) + noise. image: `B C H W` in [0, 1].

        Raises:
            Refusal: when the picture is not finite, or cannot be measured by this operator.
        """
        require_finite(image)
        operator.check(tuple(image.shape[1:]))
        require_batch(operator, len(image))
        clean = operator.forward(image)
        noise.check(tuple(clean.shape))
        spread = operator.spread(clean)
        total = noise if spread is None else noise.widened(spread)
        return cls._of(operator, total.sample(clean, seed), noise)

    @classmethod
    def _of(cls, operator: Operator, y: Tensor, noise: Noise) -> Measurement:
        """With zeros for filler, and with what the operator itself adds to the noise."""
        support, spread = operator.support(y), operator.spread(y)
        noise = noise if spread is None else noise.widened(spread)
        return cls(operator, y if support is None else y * support, noise)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the pictures that this measurement speaks of."""
        return self.operator.image_shape(self.y.shape)

    @property
    def noisy(self) -> bool:
        """Whether there is any noise."""
        return bool((torch.as_tensor(self.noise.deviation(self.y)) > 0).any())

    def residual(self, x: Tensor) -> Tensor:
        """y - A(x). x: `B C H W` in image units."""
        return self.y - self.operator.forward(x)

    def whitened(self) -> Measurement:
        """The same measurement in units of its noise: W y = W A(x) + z with W = diag(1 / deviation).

        For methods that know one noise level only. It is this measurement itself when its noise has one level.
        Poisson noise is taken as Gaussian with the variance that y suggests. Standard deviations below the rounding
        of 8 bits count as that. Masks and other operators whose A A^T is diagonal keep their exact inverses.
        """
        deviation = torch.as_tensor(self.noise.deviation(self.y))
        if isinstance(self.noise, GaussianNoise) and deviation.numel() == 1:
            return self
        weight = 1 / deviation.clamp_min(ROUNDING)
        weight = weight.reshape(*[1] * (self.y.ndim - weight.ndim), *weight.shape)
        operator = compose(Weight(weight), self.operator)
        operator.label = f"{self.operator.label} with uneven noise"
        return Measurement(operator, weight * self.y, GaussianNoise(1.0))

    def picture(self) -> Tensor:
        """y for the eye: `B 3 H W` in [0, 1]."""
        return self._show(self.y)

    def residual_picture(self, x: Tensor) -> Tensor:
        """y - A(x) for the eye: grey is agreement, black and white are four standard deviations off, at least 1/16."""
        residual = self.residual(x)
        if not self.operator.pictorial:
            return self._show(residual)
        deviation = torch.as_tensor(self.noise.deviation(self.y - residual)).clamp_min(1 / 64)
        return self._show(0.5 + residual / (8 * deviation))

    def _show(self, y: Tensor) -> Tensor:
        view = self.operator.picture(y).clamp(0, 1)
        return view.expand(-1, 3, -1, -1) if view.shape[1] == 1 else view

    def residual_rms(self, x: Tensor) -> Tensor:
        """Root mean square of the residual over what was measured, per sample, in image units."""
        return self._rms(self.residual(x))

    def fit(self, x: Tensor) -> Tensor:
        """RMS of residual / sigma_y per sample: near 1 is a fit, above misses data, far below fits noise.

        Infinite where sigma_y = 0 and the residual is not.
        """
        residual = self.residual(x)
        return self._rms(residual / self.noise.deviation(self.y - residual))

    def agreement(self, x: Tensor) -> Tensor:
        """What a report shows per sample: `fit` where there is noise, else `residual_rms`."""
        return self.fit(x) if self.noisy else self.residual_rms(x)

    def _rms(self, residual: Tensor) -> Tensor:
        square = (residual.double() ** 2).nan_to_num(0.0, posinf=torch.inf)  # 0 / 0 is a perfect fit
        support = self.operator.support(self.y)
        measured = torch.ones_like(square) if support is None else support.expand_as(square)
        return (square.where(measured > 0, 0.0).flatten(1).sum(1) / measured.flatten(1).sum(1)).sqrt()

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Measurement:
        return moved(self, device, dtype)


def combine(measurements: Sequence[Measurement]) -> Measurement:
    """Several measurements of one picture as one.

    Noise of one level stays so; any other becomes Gaussian noise with the deviation that each y suggests.

    Raises:
        Refusal: when they speak of pictures of different size, or of different numbers of pictures.
    """
    batches = {len(each.y) for each in measurements} - {1}
    if len(batches) > 1:
        raise Refusal(
            f"The measurements hold {' and '.join(map(str, sorted(batches)))} pictures; give the same number to each."
        )
    operator = stack([each.operator for each in measurements], [tuple(each.y.shape[1:]) for each in measurements])
    y = operator.join([each.y for each in measurements])
    deviations = [torch.as_tensor(each.noise.deviation(each.y), dtype=each.y.dtype) for each in measurements]
    if all(d.numel() == 1 and d.item() == deviations[0].item() for d in deviations):
        return Measurement(operator, y, measurements[0].noise)
    levels = [d.to(m.y).expand(m.y.shape) for d, m in zip(deviations, measurements, strict=True)]
    return Measurement(operator, y, GaussianNoise(operator.join(levels)))


def require_batch(operator: Operator, pictures: int) -> None:
    """Refuses an operator made for another number of pictures."""
    if operator.batch != 1 and pictures not in (1, operator.batch):
        raise Refusal(f"There are {operator.batch} masks and {pictures} pictures; give one for all, or one for each.")


def require_finite(image: Tensor) -> None:
    """Refuses a picture with NaN or infinite values."""
    if not torch.isfinite(image).all():
        raise Refusal("The picture contains NaN or infinite values; check the node that makes it.")
