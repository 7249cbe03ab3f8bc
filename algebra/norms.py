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
    """The largest eigenvalue of a symmetric positive map of each sample: norm(A)^2 for A^T A.

    Lanczos (1950, https://doi.org/10.6028/jres.045.026) with all vectors kept orthogonal: the largest eigenvalue of the
    map within a Krylov space, right to rounding after a few products, and never above the truth.

    Args:
        gram: the map, `B ...` to `B ...`.
        x: where to start, not orthogonal to the eigenvector.
        iterations: products at most.

    Returns:
        One number a sample, shaped to broadcast against x.
    """
    shape = (-1, *[1] * (x.ndim - 1))
    basis = [x / sample_norm(x)]
    columns = []
    for _ in range(min(iterations, x[0].numel())):
        w = gram(basis[-1])
        columns.append(w)
        for v in 2 * basis:  # twice, for what rounding has left
            w = w - (v * w).flatten(1).sum(1).reshape(shape) * v
        basis.append(w / sample_norm(w))
    left, right = torch.stack(basis[:-1], 1).flatten(2), torch.stack(columns, 1).flatten(2)
    within = left @ right.mT
    return torch.linalg.eigvalsh((within + within.mT) / 2)[:, -1].reshape(shape)
