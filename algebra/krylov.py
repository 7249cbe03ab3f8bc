"""Matrix-free solvers for the operators that have no closed form."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from .checkpoint import checkpoint

#: iterations between two looks at the residual on a device that must be waited for; a processor looks each time
LOOK = 8


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Per-sample inner product, shaped to broadcast against a."""
    return (a.conj() * b).real.flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


def conjugate_gradient(
    matvec: Callable[[Tensor], Tensor],
    b: Tensor,
    x: Tensor | None = None,
    tolerance: float | None = None,
    iterations: int = 200,
    warn: bool = True,
    precondition: Callable[[Tensor], Tensor] | None = None,
    look: int | None = None,
) -> Tensor:
    """Solve M x = b for a symmetric positive semi-definite M, each sample of the batch on its own.

    Hestenes and Stiefel, https://doi.org/10.6028/jres.049.044. From x = 0 on a consistent singular system it
    converges to the solution of least norm.

    Args:
        matvec: v to M v, shape of b.
        b: `B ...`.
        x: start, zeros by default.
        tolerance: stop when norm(b - M x) <= tolerance norm(b) in every sample; by default a few hundred
            rounding errors of the dtype.
        iterations: at most so many products.
        warn: log a line when they did not suffice.
        precondition: r to P r with a symmetric positive definite P near M^-1; fewer products are then needed.
        look: iterations from one look at the residual to the next. Samples that have converged stay as they are, so
            that the solution does not depend on it; looks at a device wait for it.
    """
    if tolerance is None:
        tolerance = 500 * torch.finfo(b.dtype).eps
    if look is None:
        look = 1 if b.device.type == "cpu" else LOOK
    r = b if x is None else b - matvec(x)
    x = torch.zeros_like(b) if x is None else x
    z = r if precondition is None else precondition(r)
    p = z
    rz, rr = _dot(r, z), _dot(r, r)
    tiny = torch.finfo(rr.dtype).tiny
    goal = tolerance**2 * _dot(b, b)
    for k in range(iterations):
        checkpoint(k / iterations)
        active = rr > goal
        if k % look == look - 1 and not active.any():
            return x
        q = matvec(p)
        curvature = _dot(p, q)
        # a sample that has converged (or a direction in the null space) must not divide by zero
        step = torch.where(active & (curvature > 0), rz / curvature.clamp_min(tiny), 0.0)
        x = x + step * p
        r = r - step * q
        z = r if precondition is None else precondition(r)
        rz, before, rr = _dot(r, z), rz, _dot(r, r)
        p = z + torch.where(active, rz / before.clamp_min(tiny), 0.0) * p
    if warn:
        reached = (rr / _dot(b, b).clamp_min(tiny)).max().sqrt().item()
        if reached > tolerance:
            logging.getLogger("posterior").warning(
                "conjugate gradients stopped at %d iterations with a relative residual of %.1e", iterations, reached
            )
    return x


def minimal_residual(matvec: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """x in the Krylov space of M and b with the least norm(b - M x), each sample of the batch on its own.

    GMRES (Saad and Schultz 1986, https://doi.org/10.1137/0907058): M need not be symmetric or positive, and each
    product can only make the residual smaller. It keeps a vector for each product, so it is for few of them.

    Args:
        matvec: v to M v, shape of b.
        b: `B ...`.
        iterations: at most so many products; fewer when the space is exhausted.
    """
    shape = (-1, *[1] * (b.ndim - 1))
    length = _dot(b, b).sqrt().reshape(-1)
    # what is left of a vector after all others, from which on it is rounding
    nothing = 100 * torch.finfo(b.dtype).eps * length.clamp_min(torch.finfo(b.dtype).tiny)
    basis = [b / length.clamp_min(torch.finfo(b.dtype).tiny).reshape(shape)]
    columns: list[Tensor] = []
    for k in range(min(iterations, b[0].numel())):
        checkpoint(k / iterations)
        w = matvec(basis[-1])
        column = b.new_zeros(len(b), iterations + 1)
        for _ in range(2):  # once more for what rounding has left
            for i, v in enumerate(basis):
                share = _dot(v, w)
                column[:, i] += share.reshape(-1)
                w = w - share * v
        rest = _dot(w, w).sqrt().reshape(-1)
        alive = rest > nothing
        column[:, k + 1] = torch.where(alive, rest, 0.0)
        columns.append(column)
        if b.device.type == "cpu" and not alive.any():
            break
        basis.append(torch.where(alive.reshape(shape), w / rest.clamp_min(1e-30).reshape(shape), 0.0))
    hessenberg = torch.stack(columns, -1)
    goal = torch.zeros_like(hessenberg[:, :, :1])
    goal[:, 0, 0] = length
    weights = (torch.linalg.pinv(hessenberg) @ goal)[..., 0]
    return sum(weights[:, k].reshape(shape) * v for k, v in enumerate(basis[: len(columns)]))
