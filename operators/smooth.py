"""The smoothest picture that explains a measurement: where sampling or restoring can start, and a baseline."""

from __future__ import annotations

from collections.abc import Callable

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


def smooth_inverse(operator: LinearOperator, y: Tensor, weight: float = 0.002, iterations: int = 300) -> Tensor:
    """argmin_x norm(A x - y)^2 + weight norm(Laplacian x)^2, `B C H W` in image units.

    Over a hole it is the thin plate that continues the rim, values and slopes (Duchon 1977,
    https://doi.org/10.1007/BFb0086566), for a blur a Tikhonov deconvolution. The membrane with norm(grad x)^2, which
    is easier to find, comes first.

    Args:
        y: `B ...`.
        weight: smoothness against agreement; larger for noisier measurements.
        iterations: cap of the conjugate gradients, each time; a start need not be exact.
    """

    def solve(energy: Callable[[Tensor], Tensor], weight: float, start: Tensor | None) -> Tensor:
        def normal_equations(x: Tensor) -> Tensor:
            return operator.adjoint(operator.forward(x)) + weight * energy(x)

        # inside a hole only the small energy speaks, so the residual must become very small to be right there
        return conjugate_gradient(normal_equations, operator.adjoint(y), start, 1e-6, iterations, warn=False)

    membrane = solve(negative_laplacian, 5 * weight, None)
    return solve(lambda x: negative_laplacian(negative_laplacian(x)), weight, membrane)
