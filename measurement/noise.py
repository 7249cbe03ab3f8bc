"""Noise models: how a measurement scatters around A(x)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.moved import moved, taken
from ..algebra.refusal import Refusal
from ..algebra.streams import Streams

#: standard deviation of rounding to 8 bits, 1 / (255 sqrt 12): no pixel of a picture is known better
ROUNDING = 1 / (255 * 12**0.5)
#: what the random numbers of simulated measurements are for
MEASURING = "measuring"


class Noise(ABC):
    """p(y given A(x)), with Gaussian noise of standard deviation `sigma` as a part of it.

    Residuals are r = y - A(x); all numbers are in image units, all tensors of the shape of y, `B ...`.
    """

    sigma: float | Tensor

    @abstractmethod
    def sample(self, clean: Tensor, seed: int) -> Tensor:
        """y ~ p(y given clean)."""

    @abstractmethod
    def deviation(self, clean: Tensor) -> float | Tensor:
        """Standard deviation of the noise on `clean`, broadcastable against it."""

    @abstractmethod
    def log_likelihood(self, residual: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(y given x) up to a constant, per sample. y: needed where the noise depends on the signal."""

    @abstractmethod
    def score(self, residual: Tensor, y: Tensor | None = None) -> Tensor:
        """Gradient of the log-likelihood with respect to A(x)."""

    def check(self, measurement_shape: tuple[int, ...]) -> None:
        """Refuses a noise map that does not fit a measurement of shape `B ...`."""
        shape = tuple(getattr(self.sigma, "shape", ()))
        try:
            fits = torch.broadcast_shapes(shape, measurement_shape) == measurement_shape
        except RuntimeError:
            fits = False
        if not fits and shape[2:] == measurement_shape[2:]:
            raise Refusal(
                f"There are {shape[0]} noise maps and {measurement_shape[0]} pictures; give one for all, or one for "
                "each."
            )
        if not fits:
            there, here = (" x ".join(map(str, reversed(sizes[2:]))) for sizes in (shape, measurement_shape))
            raise Refusal(f"The noise map is {there} and the measurement {here}; make both the same size.")

    @abstractmethod
    def widened(self, spread: Tensor) -> Noise:
        """With independent noise of standard deviation `spread` (broadcastable against y) added."""

    @property
    def level(self) -> float | None:
        """sigma of independent Gaussian noise that is the same everywhere; None for any other."""
        return None

    @property
    def correlated(self) -> bool:
        """Whether the noise of a number tells something about that of others, see `coloured_noise`."""
        return False

    def take(self, index: Tensor) -> Noise:
        """The same noise for some of the samples. index: int64."""
        sigma = torch.as_tensor(self.sigma)
        return taken(self, index, len(sigma)) if sigma.ndim > 1 else self

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Noise:
        return moved(self, device, dtype)


@dataclass(frozen=True)
class GaussianNoise(Noise):
    """y = A(x) + sigma z, z ~ N(0, I).

    Args:
        sigma: standard deviation in image units ([0, 1]), a number or a tensor that broadcasts against y.

    Raises:
        Refusal: when it is negative somewhere.
    """

    sigma: float | Tensor

    def __post_init__(self) -> None:
        if bool((torch.as_tensor(self.sigma) < 0).any()):
            raise Refusal("The noise level is negative; use 0 for a clean measurement.")

    def sample(self, clean: Tensor, seed: int) -> Tensor:
        return clean + self.sigma * Streams(seed, MEASURING, len(clean)).normal(clean)

    def deviation(self, clean: Tensor) -> float | Tensor:
        return self.sigma

    def log_likelihood(self, residual: Tensor, y: Tensor | None = None) -> Tensor:
        """-norm(r / sigma)^2 / 2."""
        return -((residual / self.sigma) ** 2).flatten(1).sum(1) / 2

    def score(self, residual: Tensor, y: Tensor | None = None) -> Tensor:
        """r / sigma^2."""
        return residual / self.sigma**2

    @property
    def level(self) -> float | None:
        if not isinstance(self.sigma, Tensor):
            return float(self.sigma)
        return self.sigma.item() if self.sigma.numel() == 1 else None

    def widened(self, spread: Tensor) -> GaussianNoise:
        return GaussianNoise((self.sigma**2 + spread**2).sqrt())


@dataclass(frozen=True)
class PoissonNoise(Noise):
    """A camera's noise: photons that are counted, and the noise of reading them out.

        y = gain n + sigma z,    n ~ Poisson(A(x) / gain),    variance gain A(x) + sigma^2

    For sigma > 0 the likelihood is that of the shifted Poisson law with the same mean and variance (Snyder, Hammoud and
    White 1993, https://doi.org/10.1364/JOSAA.10.001014): (y + sigma^2 / gain) / gain is taken as Poisson. In any case
    the gradient is r / (gain A(x) + sigma^2). Values of A(x) below one photon count as one photon.

    Args:
        gain: brightness of one photon, image units, > 0: white is 1 / gain photons.
        sigma: standard deviation of the read-out, image units, a number or a tensor that broadcasts against y.

    Raises:
        Refusal: when the gain is not positive, or sigma is negative somewhere.
    """

    gain: float
    sigma: float | Tensor = 0.0

    def __post_init__(self) -> None:
        if not self.gain > 0:
            raise Refusal("The photon noise is not above 0; give the brightness of one photon, for example 0.01.")
        if bool((torch.as_tensor(self.sigma) < 0).any()):
            raise Refusal("The noise level is negative; use 0 for a clean measurement.")

    def sample(self, clean: Tensor, seed: int) -> Tensor:
        streams = Streams(seed, MEASURING, len(clean))
        photons = streams.poisson((clean / self.gain).clamp_min(0))
        return self.gain * photons + self.sigma * streams.normal(clean)

    def deviation(self, clean: Tensor) -> Tensor:
        return (self.gain * clean.clamp_min(self.gain) + self.sigma**2).sqrt()

    def log_likelihood(self, residual: Tensor, y: Tensor | None = None) -> Tensor:
        """(1 / gain) sum (y + b) log(A(x) + b) - A(x), b = sigma^2 / gain."""
        clean, shift = (y - residual).clamp_min(self.gain), self.sigma**2 / self.gain
        return (((y + shift) * (clean + shift).log() - clean) / self.gain).flatten(1).sum(1)

    def score(self, residual: Tensor, y: Tensor | None = None) -> Tensor:
        """r / (gain A(x) + sigma^2)."""
        return residual / self.deviation(y - residual) ** 2

    def widened(self, spread: Tensor) -> PoissonNoise:
        return PoissonNoise(self.gain, (self.sigma**2 + spread**2).sqrt())
