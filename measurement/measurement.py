"""A measurement: what was seen (y), how it came about (A) and how much it scatters (the noise).

A picture is a file of 8 bits: "clean" means that it was rounded, with the standard deviation tau = 1 / (255 sqrt 12). A
direction of A = U diag(s) V^T is then known up to tau / s_i, and to divide by an s_i that is small beside tau fills the
picture with rounding. The rounding is independent of the picture, or nearly so (Widrow et al. 1996,
https://doi.org/10.1109/19.492748), so it is one more noise and is treated as that:

* `resolved`, which every guidance block takes: where some s_i is so small, tau counts as the noise. Each method then
  weighs y against its own prior as it does with any noise: DiffPIR and Pi-GDM by s / (s^2 + (tau / r_t)^2), which is
  the mean of the posterior, DDNM+, DDRM and SNIPS by comparing tau / s_i with sigma_t. Where every s_i is 0 or at least
  1/4 (masks, frames, transforms, small boxes) y stays exact, and what was measured is met bit for bit.
* `inverse`, for methods that have a pseudo-inverse and no place for a noise: a cut at s_i < tau / deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..algebra.checkpoint import checkpoint
from ..algebra.devices import precise
from ..algebra.moved import moved
from ..algebra.refusal import Refusal
from ..operators.base import Operator
from ..operators.compose import compose
from ..operators.diagonal import Weight
from ..operators.spectral import SpectralOperator, pseudo_reciprocal, weakest
from ..operators.stack import stack
from .coloured_noise import log_determinant, whitened_operator
from .noise import ROUNDING, GaussianNoise, Noise

#: singular values from here on leave the rounding of 8 bits about as small as it is
STRONG = 0.25
#: standard deviation of a photograph's finest details, image units: what an inverse may put wrong in one direction. For
#: the rounding of 8 bits the cut is at 2.8e-2, where published codes cut at 3e-2
DETAIL = 0.04


@dataclass(frozen=True)
class Measurement:
    """y = A(x) + noise.

    Args:
        operator: A.
        y: `B ...`, what was measured, image units; entries outside the operator's support are 0.
        noise: how y scatters around A(x).
        rounding: standard deviation with which y was rounded, image units; 0 for numbers that were computed.
        volume: log |det W| where y is W times what was seen, over what was measured, a number or one for each picture,
            `B`; log p of what was seen is that of y plus this.
    """

    operator: Operator
    y: Tensor
    noise: Noise
    rounding: float = 0.0
    volume: float | Tensor = 0.0

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
        y = y.expand(max(len(y), operator.batch), *y.shape[1:])
        noise.check(tuple(y.shape))
        return cls._of(operator, y, noise, ROUNDING if operator.pictorial else 0.0)

    @classmethod
    def simulate(cls, operator: Operator, image: Tensor, noise: Noise, seed: int) -> Measurement:
        """Damages a clean picture: y = A(x) + noise. image: `B C H W` in [0, 1].

        Raises:
            Refusal: when the picture is not finite, or cannot be measured by this operator.
        """
        require_finite(image)
        operator.check(tuple(image.shape[1:]))
        require_batch(operator, len(image))
        clean = operator.forward(image.expand(max(len(image), operator.batch), *image.shape[1:]))
        noise.check(tuple(clean.shape))
        checkpoint()
        spread = operator.spread(clean)
        total = noise if spread is None else noise.widened(spread)
        return cls._of(operator, total.sample(clean, seed), noise)

    @classmethod
    def _of(cls, operator: Operator, y: Tensor, noise: Noise, rounding: float = 0.0) -> Measurement:
        """With zeros for filler, and with what the operator itself adds to the noise."""
        support, spread = operator.support(y), operator.spread(y)
        noise = noise if spread is None else noise.widened(spread)
        return cls(operator, y if support is None else y * support, noise, rounding)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the pictures that this measurement speaks of."""
        return self.operator.image_shape(self.y.shape)

    # worked out once, since a device must be waited for; copies on another device know it already

    @cached_property
    def noisy(self) -> bool:
        """Whether there is any noise."""
        return bool((torch.as_tensor(self.noise.deviation(self.y)) > 0).any())

    @cached_property
    def _sigma(self) -> float:
        """Root mean square of the noise's deviation."""
        return torch.as_tensor(self.noise.deviation(self.y)).square().mean().sqrt().item()

    @cached_property
    def _strong(self) -> bool:
        """Whether A enlarges no rounding."""
        return weakest(self.operator, self.y) >= STRONG

    @cached_property
    def _white(self) -> Measurement:
        operator, white = whitened_operator(self.noise, self.operator, self.y)
        y = white.forward(self.y)
        return Measurement(operator, y, GaussianNoise(self.noise.floor), volume=log_determinant(white, y))

    @property
    def clean(self) -> bool:
        """Whether there is no more noise than the rounding."""
        level = self.noise.level
        return level is not None and level <= self.rounding * (1 + 1e-6)  # it may have been single precision

    def resolved(self) -> Measurement:
        """The same measurement, whose rounding counts as its noise where A would enlarge it (see above).

        Noise with neighbours is whitened, so that no method has to know of it.
        """
        if self.noise.correlated:
            return self.whitened()
        level = self.noise.level
        if level is None or level >= self.rounding or not self.operator.linear:
            return self
        if level == 0 and self._strong:
            return self
        return replace(self, noise=GaussianNoise(self.rounding))

    def inverse(self, residual: Tensor, deviation: float = DETAIL) -> Tensor:
        """A^+ r without what the noise drowns, `B C H W`.

        Directions with s_i < sigma / deviation are left out, except those half as strong as the strongest. Operators
        without singular values have A^T (A A^T + (sigma / deviation)^2)^-1 r, which damps them.

        Args:
            residual: r, the shape of y.
            deviation: how far a picture may be off in one direction, image units; that of a state is sigma_s / alpha_s.
        """
        operator, resolved = self.operator, self if self.noise.correlated else self.resolved()
        if not (operator.linear and resolved.noisy):
            return operator.pinv(residual)
        floor = resolved._sigma / max(deviation, 1e-12)
        if not isinstance(operator, SpectralOperator):
            return operator.prox(torch.zeros_like(operator.adjoint(residual)), residual, min(floor, 0.5) ** 2)
        shape = operator.image_shape(tuple(residual.shape))
        s = operator.singular_values(residual.new_empty(0, *shape))
        gain = torch.where(s >= (s.max() / 2).clamp(max=floor), pseudo_reciprocal(s), 0.0)
        return operator.from_spectrum(gain * operator.measurement_to_spectrum(residual), shape).to(residual.dtype)

    def drowned(self) -> float:
        """Share of the measured directions that `inverse` leaves out because of the rounding; 0 where A has no s_i."""
        operator = self.operator
        near = operator if isinstance(operator, SpectralOperator) else getattr(operator, "nearby", None)
        if self.noise.correlated or self.resolved() is self or near is None:
            return 0.0
        s = near.singular_values(self.y.new_empty(0, *self.image_shape))
        measured = (s > 0).sum().item()
        return ((s > 0) & (s < self.rounding / DETAIL)).sum().item() / max(measured, 1)

    def residual(self, x: Tensor) -> Tensor:
        """y - A(x). x: `B C H W` in image units."""
        return self.y - self.operator.forward(x)

    def whitened(self) -> Measurement:
        """The same measurement in units of its noise: W y = W A(x) + z with W = diag(1 / deviation).

        For methods that know one noise level only. It is this measurement itself when its noise has one level.
        Poisson noise is taken as Gaussian with the variance that y suggests. Standard deviations below the rounding
        of 8 bits count as that. Masks and other operators whose A A^T is diagonal keep their exact inverses. W of noise
        with neighbours is in `coloured_noise`.
        """
        if self.noise.correlated:
            return self._white
        deviation = torch.as_tensor(self.noise.deviation(self.y))
        if isinstance(self.noise, GaussianNoise) and deviation.numel() == 1:
            return self
        weight = 1 / deviation.clamp_min(ROUNDING)
        weight = weight.reshape(*[1] * (self.y.ndim - weight.ndim), *weight.shape)
        operator = compose(Weight(weight), self.operator)
        operator.label = f"{self.operator.label} with uneven noise"
        y = weight * self.y
        support = operator.support(y)
        volume = (weight.log() if support is None else weight.log() * (support > 0)).expand(y.shape).flatten(1).sum(1)
        return Measurement(operator, y, GaussianNoise(1.0), volume=volume)

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

        Infinite where sigma_y = 0 and the residual is not; where the noise is uneven, less than the rounding of 8 bits
        counts as that.
        """
        if self.noise.correlated:
            return self._white.fit(x)
        return self._rms(self.scaled_residual(x))

    def scaled_residual(self, x: Tensor) -> Tensor:
        """(y - A(x)) / sigma_y, see `fit`."""
        residual = self.residual(x)
        deviation = torch.as_tensor(self.noise.deviation(self.y - residual))
        return residual / (deviation.clamp_min(ROUNDING) if deviation.numel() > 1 else deviation)

    def agreement(self, x: Tensor) -> Tensor:
        """What a report shows per sample: `fit` where there is noise, else `residual_rms`."""
        return self.fit(x) if self.noisy else self.residual_rms(x)

    def _rms(self, residual: Tensor) -> Tensor:
        square = (precise(residual) ** 2).nan_to_num(0.0, posinf=torch.inf)  # 0 / 0 is a perfect fit
        support = self.operator.support(self.y)
        measured = torch.ones_like(square) if support is None else support.expand_as(square)
        return (square.where(measured > 0, 0.0).flatten(1).sum(1) / measured.flatten(1).sum(1)).sqrt()

    def take(self, index: Tensor) -> Measurement:
        """That of some of its pictures; one of a single picture stays as it is. index: int64."""
        rows = len(self.y)
        return replace(
            self, operator=self.operator.take(index), y=self.y[index.to(self.y.device)] if rows > 1 else self.y,
            noise=self.noise.take(index),
            volume=self.volume if isinstance(self.volume, float) or rows == 1 else self.volume[index.to(self.y.device)],
        )  # fmt: skip

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Measurement:
        return moved(self, device, dtype)


def combine(measurements: Sequence[Measurement]) -> Measurement:
    """Several measurements of one picture as one.

    Noise of one level stays so, noise with neighbours is whitened, and any other becomes Gaussian noise with the
    deviation that each y suggests.

    Raises:
        Refusal: when they speak of pictures of different size, or of different numbers of pictures.
    """
    batches = {len(each.y) for each in measurements} - {1}
    if len(batches) > 1:
        raise Refusal(
            f"The measurements hold {' and '.join(map(str, sorted(batches)))} pictures; give the same number to each."
        )
    measurements = [each.whitened() if each.noise.correlated else each for each in measurements]
    operator = stack([each.operator for each in measurements], [tuple(each.y.shape[1:]) for each in measurements])
    y = operator.join([each.y for each in measurements])
    deviations = [torch.as_tensor(each.noise.deviation(each.y), dtype=each.y.dtype) for each in measurements]
    rounding, volume = max(each.rounding for each in measurements), sum(each.volume for each in measurements)
    if all(d.numel() == 1 and d.item() == deviations[0].item() for d in deviations):
        return Measurement(operator, y, measurements[0].noise, rounding, volume)
    levels = [d.to(m.y).expand(m.y.shape) for d, m in zip(deviations, measurements, strict=True)]
    return Measurement(operator, y, GaussianNoise(operator.join(levels)), volume=volume)


def require_batch(operator: Operator, pictures: int) -> None:
    """Refuses an operator made for another number of pictures."""
    if operator.batch != 1 and pictures not in (1, operator.batch):
        raise Refusal(f"There are {operator.batch} masks and {pictures} pictures; give one for all, or one for each.")


def require_finite(image: Tensor) -> None:
    """Refuses a picture with NaN or infinite values."""
    if not torch.isfinite(image).all():
        raise Refusal("The picture contains NaN or infinite values; check the node that makes it.")
