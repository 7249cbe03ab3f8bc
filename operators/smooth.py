"""The smoothest picture that explains a measurement: a start of sampling or restoring, a correction, a baseline."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


def membrane(
    operator: LinearOperator, y: Tensor, weight: float, tolerance: float = 1e-6, iterations: int = 300
) -> Tensor:
    """argmin_x norm(A x - y)^2 + weight norm(grad x)^2, `B C H W`, by conjugate gradients."""

    def normal_equations(x: Tensor) -> Tensor:
        return operator.adjoint(operator.forward(x)) + weight * negative_laplacian(x)

    return conjugate_gradient(normal_equations, operator.adjoint(y), None, tolerance, iterations, warn=False)


def continued(operator: LinearOperator, correction: Tensor) -> Tensor:
    """argmin_d norm(grad d) with d = correction where the picture was measured, `B C H W`.

    A data step corrects what was measured and nothing beside it, as if the errors of a prediction were white. They are
    smooth, like pictures: a hole whose rim is too dark is too dark itself. Over a hole, at the end of sampling, this is
    Poisson image editing (Perez et al. 2003, https://doi.org/10.1145/882262.882269). Of operators that do not measure
    the numbers of a picture one by one the correction is returned as it is.
    """
    if not operator.local:
        return correction
    keep = operator.singular_values(correction) > 0
    return harmonic(correction, keep.expand_as(correction), 0.01)


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

    def normal_equations(x: Tensor) -> Tensor:
        bent = negative_laplacian(negative_laplacian(x))
        return operator.adjoint(operator.forward(x)) + weight * bent

    # inside a hole only the small energy speaks, so the residual must become very small to be right there
    start = membrane(operator, y, 5 * weight, 1e-6, iterations)
    return conjugate_gradient(normal_equations, operator.adjoint(y), start, 1e-6, iterations, warn=False)


def harmonic(values: Tensor, keep: Tensor, tolerance: float | None = None, smallest: int = 8) -> Tensor:
    """The values where they are kept, and in between what has no Laplacian, `B C H W`.

    Solved by conjugate gradients, from coarse to fine, each colour on its own.

    Args:
        keep: bool, the shape of values.
        tolerance: as in `conjugate_gradient`.
        smallest: side from which on the equation is solved without a coarser one.
    """
    values, unknown = values * keep, (~keep).to(values)
    if keep.all() or not keep.any():
        return values
    start = torch.zeros_like(values)
    if min(values.shape[-2:]) > smallest:
        share = F.avg_pool2d(keep.to(values), 2, ceil_mode=True)
        mean = F.avg_pool2d(values, 2, ceil_mode=True) / share.clamp_min(1e-6)
        start = F.interpolate(harmonic(mean, share > 0, tolerance, smallest), scale_factor=2.0, mode="bilinear")
        start = start[..., : values.shape[-2], : values.shape[-1]] * unknown
    between = conjugate_gradient(
        lambda c: unknown * negative_laplacian(unknown * c), -unknown * negative_laplacian(values), start,
        tolerance, warn=False,
    )  # fmt: skip
    return values + unknown * between
