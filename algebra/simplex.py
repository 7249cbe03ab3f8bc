"""Least squares on the simplex of kernels, and shifts of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def least_on_simplex(slope: Callable[[Tensor], Tensor], curvature: Tensor, k: Tensor, count: int) -> Tensor:
    """The kernel `B 1 n n` of the least quadratic objective, by accelerated projected gradients (FISTA) from k.

    Args:
        slope: its gradient.
        curvature: a bound on its largest eigenvalue, `B`.
        count: steps.
    """
    ahead, momentum, rate = k, 1.0, 1 / curvature[:, None, None, None]
    for _ in range(count):
        new = on_simplex((ahead - rate * slope(ahead)).flatten(1)).view_as(k)
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / following * (new - k)
        k, momentum = new, following
    return k


def on_simplex(v: Tensor) -> Tensor:
    """The nearest point with entries >= 0 of sum 1, for each row, `B K`."""
    falling = v.sort(1, descending=True).values
    excess = (falling.cumsum(1) - 1) / torch.arange(1, v.shape[1] + 1, dtype=v.dtype, device=v.device)
    last = (falling > excess).sum(1, keepdim=True) - 1
    return (v - excess.gather(1, last)).clamp_min(0)


def moved(x: Tensor, away: list[Tensor], way: int, black: bool = False) -> Tensor:
    """x(i + way away) for each picture, `B C H W`; beyond its edges it is drawn out, or black."""
    for dim, shift in zip((-2, -1), away, strict=True):
        size = x.shape[dim]
        wanted = torch.arange(size, device=x.device) + way * shift[:, None]
        source = wanted.clamp(0, size - 1)
        source, there = (
            index[:, None, :, None] if dim == -2 else index[:, None, None] for index in (source, source == wanted)
        )
        x = x.gather(dim, source.expand_as(x))
        x = x * there if black else x
    return x


def off_centre(kernel: Tensor) -> list[Tensor]:
    """How far down and to the right of the middle the centre of mass of each kernel lies, `B 1 n n`; whole pixels."""
    n = kernel.shape[-1]
    line = torch.arange(n, dtype=kernel.dtype, device=kernel.device) - n // 2
    return [(kernel.sum(dim)[:, 0] @ line).round().long() for dim in (-1, -2)]


def steps(x: Tensor) -> Tensor:
    """Differences of neighbours, down and to the right, `B 2C H W`; the last row and column wrap around."""
    return torch.cat([x.roll(-1, -2) - x, x.roll(-1, -1) - x], 1)
