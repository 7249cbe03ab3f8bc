"""Random streams: one for each sample and each purpose, so that nothing shares its numbers with anything else.

On the CPU, where a seed means the same numbers on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from .devices import sent


class Streams:
    """The random numbers of one consumer.

    The stream of sample i is seeded by a hash of the user's seed, the purpose and i. So consumers of the same seed do
    not share numbers, and a sample is the same picture whatever batch it stands in.

    Args:
        seed: the user's.
        purpose: what the numbers are for; another one gives other numbers.
        samples: how many samples there are, or the index of each.
    """

    def __init__(self, seed: int, purpose: str, samples: int | Sequence[int] = 1):
        self.seed, self.purpose = seed, purpose
        self.samples = tuple(range(samples)) if isinstance(samples, int) else tuple(samples)
        self._generators = [_generator(seed, purpose, index) for index in self.samples]
        self._children: dict[str, Streams] = {}

    def normal(self, like: Tensor) -> Tensor:
        """z ~ N(0, I) in the shape, dtype and place of `like`, whose batch is shared out evenly among the samples."""
        each = (len(like) // len(self._generators), *like.shape[1:])
        draws = [torch.randn(each, generator=generator, dtype=torch.float32) for generator in self._generators]
        return sent(torch.cat(draws), like)

    def uniform(self, count: int = 1) -> Tensor:
        """Numbers in [0, 1), float64 on the CPU, `B count`."""
        draws = [torch.rand(count, generator=generator, dtype=torch.float64) for generator in self._generators]
        return torch.stack(draws)

    def poisson(self, rates: Tensor) -> Tensor:
        """Counts of the given rates, `B ...`, in their dtype and place."""
        parts = rates.cpu().float().chunk(len(self._generators))
        counts = [torch.poisson(part, generator) for part, generator in zip(parts, self._generators, strict=True)]
        return torch.cat(counts).to(rates)

    def of(self, purpose: str) -> Streams:
        """The streams of a consumer within this one; asked again, they go on where they were."""
        if purpose not in self._children:
            self._children[purpose] = Streams(self.seed, f"{self.purpose}/{purpose}", self.samples)
        return self._children[purpose]

    def take(self, index: Sequence[int]) -> Streams:
        """The streams of some of the samples, which go on where they were."""
        return _Taken(self, index)


class SharedStreams(Streams):
    """One stream for thousands of samples, where one each would take most of the time: for studies of a law.

    Args:
        seed, purpose: as in `Streams`.
        count: how many samples there are.
    """

    def __init__(self, seed: int, purpose: str, count: int):
        super().__init__(seed, purpose)
        self.count = count

    def uniform(self, count: int = 1) -> Tensor:
        return super().uniform(count * self.count).reshape(self.count, count)

    def of(self, purpose: str) -> Streams:
        if purpose not in self._children:
            self._children[purpose] = SharedStreams(self.seed, f"{self.purpose}/{purpose}", self.count)
        return self._children[purpose]

    def take(self, index: Sequence[int]) -> Streams:
        return self


class _Taken(Streams):
    def __init__(self, whole: Streams, index: Sequence[int]):
        self.seed, self.purpose = whole.seed, whole.purpose
        self.samples = tuple(whole.samples[i] for i in index)
        self._generators = [whole._generators[i] for i in index]
        self._whole, self._index = whole, index

    def of(self, purpose: str) -> Streams:
        return _Taken(self._whole.of(purpose), self._index)


def _generator(seed: int, purpose: str, index: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{purpose}:{seed}:{index}".encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1)
