"""Blur kernels: odd-sized, non-negative, sum 1, as `1 1 h w` float32 tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian(sigma: float) -> Tensor:
    """exp(-r^2 / (2 sigma^2)) cut at 4 sigma and normalised. sigma > 0, in pixels."""
    radius = max(1, math.ceil(4 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    line = torch.exp(-(offsets**2) / (2 * sigma**2))
    line = line / line.sum()
    return torch.outer(line, line).float()[None, None]
