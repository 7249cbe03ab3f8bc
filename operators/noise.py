"""Noise models: how a measurement scatters around A(x)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import moved
from .errors import Refusal


def sample_generators(seed: int, batch: int) -> list[torch.Generator]:
    """One random stream per sample, so that sample i is the same picture whatever the batch around it.

    On the CPU, where a seed means the same numbers on every machine.
    """
    golden = 0x9E3779B97F4A7C15  # an odd multiplier keeps the streams of (seed, i) and (seed + 1, i) apart
    return [torch.Generator("cpu").manual_seed((seed * golden + i) % 2**63) for i in range(batch)]


def standard_normal(like: Tensor, generators: list[torch.Generator]) -> Tensor:
    """z ~ N(0, I) in the shape, dtype and place of `like`, one generator per sample."""
    draws = [torch.randn(like.shape[1:], generator=g, dtype=torch.float32) for g in generators]
    return torch.stack(draws).to(like.device, like.dtype)


@dataclass(frozen=True)
class GaussianNoise:
    """y = A(x) + sigma z, z ~ N(0, I).

    Args:
        sigma: standard deviation in image units ([0, 1]), a number or a tensor that broadcasts against y.
    """

    sigma: float | Tensor

    def __post_init__(self) -> None:
        if bool((torch.as_tensor(self.sigma) < 0).any()):
            raise Refusal("The noise level is negative; use 0 for a clean measurement.")

    def sample(self, clean: Tensor, seed: int) -> Tensor:
        """A noisy copy of `clean` (`B ...`)."""
        return clean + self.sigma * standard_normal(clean, sample_generators(seed, clean.shape[0]))

    def deviation(self, clean: Tensor) -> float | Tensor:
        """Standard deviation of the noise on `clean`."""
        return self.sigma

    def log_likelihood(self, residual: Tensor) -> Tensor:
        """log p(y given x) up to a constant, per sample: -norm(r)^2 / (2 sigma^2), r = y - A(x)."""
        return -((residual / self.sigma) ** 2).flatten(1).sum(1) / 2

    def score(self, residual: Tensor) -> Tensor:
        """Gradient of the log-likelihood with respect to A(x): r / sigma^2."""
        return residual / self.sigma**2

    def to(self, device: torch.device | str, dtype: torch.dtype) -> GaussianNoise:
        return moved(self, device, dtype)
