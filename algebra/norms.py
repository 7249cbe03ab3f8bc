"""Norms that treat each sample of a batch on its own."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_norm(x: Tensor) -> Tensor:
    """The Euclidean norm of each sample of `B ...`, never 0, shaped to broadcast against x."""
    norm = x.flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    return norm.reshape(-1, *[1] * (x.ndim - 1))
