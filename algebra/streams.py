"""Random streams: one per sample, so that a seed means the same numbers in every batch and on every machine."""

from __future__ import annotations

import torch
from torch import Tensor

from .devices import sent


def sample_generators(seed: int, batch: int) -> list[torch.Generator]:
    """One random stream per sample, so that sample i is the same picture whatever the batch around it.

    On the CPU, where a seed means the same numbers on every machine.
    """
    golden = 0x9E3779B97F4A7C15  # an odd multiplier keeps the streams of (seed, i) and (seed + 1, i) apart
    return [torch.Generator("cpu").manual_seed((seed * golden + i) % 2**63) for i in range(batch)]


def standard_normal(like: Tensor, generators: list[torch.Generator]) -> Tensor:
    """z ~ N(0, I) in the shape, dtype and place of `like`, one generator per sample, or one for all of them."""
    if len(generators) == 1:
        return sent(torch.randn(like.shape, generator=generators[0], dtype=torch.float32), like)
    draws = [torch.randn(like.shape[1:], generator=g, dtype=torch.float32) for g in generators]
    return sent(torch.stack(draws), like)
