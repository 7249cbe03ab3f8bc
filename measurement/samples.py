"""What several samples of one posterior say together: mean, spread, quantiles, diversity, coverage.

The mean of samples is the MMSE estimate, their standard deviation per number says how sure it is. With n exact samples
the truth is the (n+1)-th, so that it lies between the k-th smallest and the k-th largest of them with probability (n +
1 - 2 k) / (n + 1), whatever the posterior: intervals of samples can be checked against a reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..algebra.refusal import Refusal


@dataclass
class Moments:
    """Mean and variance of samples that come in turn and are not kept (Welford 1962, https://doi.org/10.2307/1266577).

    Chan, Golub and LeVeque's form for batches (1983, https://doi.org/10.1080/00031305.1983.10483115); float64.
    """

    count: int = 0
    mean: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, samples: Tensor) -> None:
        """samples: `B ...`."""
        new, own = len(samples), samples.double()
        mean = own.mean(0)
        apart = mean - self.mean
        total = self.count + new
        self.squares = self.squares + (own - mean).square().sum(0) + apart**2 * (self.count * new / total)
        self.mean = self.mean + apart * (new / total)
        self.count = total

    @property
    def deviation(self) -> Tensor:
        """The standard deviation, unbiased in the variance; 0 for one sample."""
        return (self.squares / max(self.count - 1, 1)).sqrt()


class Interval(NamedTuple):
    """A central interval of each number.

    Args:
        low, high: its ends, `C H W`.
        level: the probability with which the truth lies inside, if the samples are exact.
    """

    low: Tensor
    high: Tensor
    level: float

    def coverage(self, truth: Tensor) -> float:
        """The share of numbers of the truth, `C H W`, that lie inside."""
        return ((truth >= self.low) & (truth <= self.high)).double().mean().item()


def interval(samples: Tensor, level: float) -> Interval:
    """The interval between the k-th smallest and largest of samples `B C H W` whose level is nearest to `level`."""
    n = require_several(samples)
    k = min(max(round((1 - level) / 2 * (n + 1)), 1), n // 2)
    ordered = samples.sort(0).values
    return Interval(ordered[k - 1], ordered[n - k], (n + 1 - 2 * k) / (n + 1))


class Diversity(NamedTuple):
    """How far samples are apart.

    Args:
        mean: the mean RMS difference of two of them.
        pair: the two that differ most.
        widest: their RMS difference.
    """

    mean: float
    pair: tuple[int, int]
    widest: float


def diversity(samples: Tensor) -> Diversity:
    """Of samples `B C H W`."""
    n = require_several(samples)
    flat = samples.flatten(1).double()
    apart = torch.cdist(flat, flat) / flat.shape[1] ** 0.5
    first, second = divmod(int(apart.argmax()), n)
    return Diversity(apart.sum().item() / (n * (n - 1)), (min(first, second), max(first, second)), apart.max().item())


def require_several(samples: Tensor) -> int:
    """How many there are; refuses one, which has no spread."""
    if len(samples) < 2:
        raise Refusal("One picture has no spread; make at least two samples (batch_size, or Posterior Samples).")
    return len(samples)


def perception_distortion(mean: Tensor, sample: Tensor, perception: float) -> Tensor:
    """(1 - a) E[x given y] + a x_sample: between the least squared error (a = 0) and the look of a sample (a = 1).

    Freirich, Michaeli and Meir 2021, https://arxiv.org/abs/2107.02555: the optimal trade-off between squared error
    and the distance of the results' law to that of pictures lies on such lines. With a posterior sample the squared
    error is (1 + a^2) times the least; the paper's own end of the line is the picture nearest to the mean among
    those of the right law, which needs optimal transport.
    """
    return mean + perception * (sample - mean)
