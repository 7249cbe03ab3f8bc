"""An orthonormal basis whose first vector is given, without its other vectors: Householder's reflection."""

from __future__ import annotations

from torch import Tensor


def reflect(x: Tensor, direction: Tensor) -> Tensor:
    """H x along the last axis, H = I - 2 u u^T / norm(u)^2 with u = e_1 - q: H q = e_1, H e_1 = q, H H = I.

    Args:
        x: `... n`.
        direction: q, `n`, of length 1 and not e_1.
    """
    u = -direction
    u[0] += 1
    return x - (x @ u)[..., None] * (u * (2 / u.square().sum()))
