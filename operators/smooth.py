"""The smoothest picture that explains a measurement: where sampling or restoring can start, and a baseline."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import LinearOperator
from .krylov import conjugate_gradient


def negative_laplacian(x: Tensor) -> Tensor:
    """-Laplacian of `B C H W` with free borders: the gradient of norm(grad x)^2 / 2."""
    out = torch.zeros_like(x)
    for dim in (-2, -1):
        d = x.diff(dim=dim)
        n = d.shape[dim]
        out.narrow(dim, 0, n).sub_(d)
        out.narrow(dim, 1, n).add_(d)
    return out


def smooth_inverse(operator: LinearOperator, y: Tensor, weight: float = 0.01, iterations: int = 500) -> Tensor:
    """argmin_x norm(A x - y)^2 + weight norm(grad x)^2, `B C H W` in image units.

    Over a hole it is the harmonic interpolation of the rim, for a blur a Tikhonov deconvolution.

    Args:
        y: `B ...`.
        weight: smoothness against agreement; larger for noisier measurements.
        iterations: cap of the conjugate gradients; a start need not be exact.
    """

    def normal_equations(x: Tensor) -> Tensor:
        return operator.adjoint(operator.forward(x)) + weight * negative_laplacian(x)

    # inside a hole only the small smoothness term speaks, so the residual must become very small to be right there
    return conjugate_gradient(normal_equations, operator.adjoint(y), tolerance=1e-6, iterations=iterations, warn=False)
