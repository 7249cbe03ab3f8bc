"""Norms that treat each sample of a batch on its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def sample_norm(x: Tensor) -> Tensor:
    """The Euclidean norm of each sample of `B ...`, never 0, shaped to broadcast against x."""
    norm = x.flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    return norm.reshape(-1, *[1] * (x.ndim - 1))


def operator_norm(gram: Callable[[Tensor], Tensor], x: Tensor, iterations: int = 30) -> Tensor:
    """The largest eigenvalue of a symmetric positive map of each sample, by power iteration: norm(A)^2 for A^T A.

    Args:
        gram: the map, `B ...` to `B ...`.
        x: where to start, not orthogonal to the eigenvector.

    Returns:
        One number a sample, shaped to broadcast against x; a little below the truth where eigenvalues lie close.
    """
    for _ in range(iterations):
        x = gram(x / sample_norm(x))
    return sample_norm(x)
