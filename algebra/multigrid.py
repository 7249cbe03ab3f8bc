"""Multigrid (Brandt 1977, https://doi.org/10.1090/S0025-5718-1977-0431719-X) for what is known at some pixels only.

    (screen - Laplacian) c = 0 at the unknown pixels,    c given at the others,    free borders

    -Laplacian c = D c - N c,    D: how many neighbours a pixel has, N: the sum over them

Grids are halved until no side is longer than 8 pixels; a coarse pixel is known, as the mean of them, where any of its
four is. One step of weighted Jacobi, c + w (D + screen)^-1 (N c - (D + screen) c), takes five kernels: c lies within a
frame of zeros, so that borders are nothing special. No step waits for the device.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .checkpoint import checkpoint

#: longest side of the coarsest grid, which is solved directly
SMALLEST = 8
#: weights of the Jacobi steps that follow a first guess: the inverse roots of Chebyshev's polynomial over those
#: eigenvalues of (D + screen)^-1 (D + screen - N), in (0, 2), that a coarser grid does not see
FIRST = [1 / (1.05 + 0.95 * math.cos(math.pi * (2 * k + 1) / 10)) for k in range(5)]
#: weight of one that precedes or follows a correction from the coarser grid
SMOOTHER = 0.9
#: 2^DOUBLINGS terms of Neumann's series solve the coarsest grid
DOUBLINGS = 12


def neighbours(framed: Tensor) -> Tensor:
    """N c. framed: c within a frame of one zero, `.. H + 2 W + 2`."""
    vertical = framed[..., :-2, 1:-1] + framed[..., 2:, 1:-1]
    return vertical.add_(framed[..., 1:-1, :-2]).add_(framed[..., 1:-1, 2:])


def within(framed: Tensor) -> Tensor:
    """c, a view."""
    return framed[..., 1:-1, 1:-1]


def framed(c: Tensor) -> Tensor:
    return F.pad(c, (1, 1, 1, 1))


def enlarged(c: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(c, scale_factor=2.0, mode="bilinear")[..., : like.shape[-2], : like.shape[-1]]


class Grids:
    """What the known pixels alone decide, from the picture's own grid to the coarsest.

    Args:
        keep: which pixels are known, bool, `B C H W` or 1 where all samples or colours have the same.
    """

    def __init__(self, keep: Tensor, dtype: torch.dtype):
        self.keep, self.unknown, self.neighbours, self.weights = [], [], [], []
        while True:
            self.keep.append(keep)
            self.unknown.append((~keep).to(dtype))
            count = neighbours(framed(torch.ones_like(keep[:1, :1], dtype=dtype)))
            self.neighbours.append(count.clamp_min(1))  # a single pixel has none
            if max(keep.shape[-2:]) <= SMALLEST:
                break
            share = F.avg_pool2d(keep.to(dtype), 2, ceil_mode=True)
            keep = share > 0
            self.weights.append(keep / share.clamp_min(0.25))  # from the mean with zeros to that of the known
        h, w = keep.shape[-2:]
        one = torch.eye(h * w, dtype=dtype, device=keep.device)
        linked = neighbours(framed(one.reshape(-1, 1, h, w))).flatten(1)
        free = self.unknown[-1].flatten(2)
        self.linked = free[..., :, None] * linked * free[..., None, :]  # N between unknown pixels, `B C HW HW`
        self.free = free[..., None] * one


class Multigrid:
    """Solutions on known pixels for one screen.

    Args:
        screen: >= 0, a number or one for each sample, `B 1 1 1`.
    """

    def __init__(self, grids: Grids, screen: float | Tensor):
        self.grids = grids
        self.diagonal = [count + screen * 4**k for k, count in enumerate(grids.neighbours)]  # pixels twice as large
        self.rate = [unknown / diagonal for unknown, diagonal in zip(grids.unknown, self.diagonal, strict=True)]
        # sum_k M^k with M = I - w (D + screen)^-1 (D + screen - N), doubled again and again
        step = SMOOTHER * self.rate[-1].flatten(2)[..., None]
        power = (1 - SMOOTHER) * grids.free + step * grids.linked
        planes, power = power.shape[:2], power.flatten(0, 1)
        total = power + torch.eye(power.shape[-1], dtype=power.dtype, device=power.device)
        for _ in range(DOUBLINGS - 1):
            power = power @ power
            total = torch.baddbmm(total, total, power)
        self.inverse = total.unflatten(0, planes) * step.mT

    def _residual(self, c: Tensor, k: int = 0) -> Tensor:
        """N c - (D + screen) c. c: framed."""
        return neighbours(c).addcmul_(self.diagonal[k], within(c), value=-1)

    def stiffness(self, c: Tensor) -> Tensor:
        """(screen - Laplacian) c at the unknown pixels. c: 0 at the others."""
        return self._residual(framed(c)).mul_(-self.grids.unknown[0])

    def pull(self, c: Tensor) -> Tensor:
        """-(screen - Laplacian) c at the unknown pixels, the right side that takes c to the solution."""
        return self._residual(framed(c)).mul_(self.grids.unknown[0])

    def _coarsest(self, r: Tensor) -> Tensor:
        return (self.inverse @ r.flatten(2)[..., None]).reshape(r.shape)

    def start(self, values: Tensor) -> Tensor:
        """A first guess, from coarse to fine: values where they are known. values: `B C H W`, 0 where they are not."""
        grids, means = self.grids, [values]
        for weight in grids.weights:
            means.append(F.avg_pool2d(means[-1], 2, ceil_mode=True) * weight)
        c = means[-1] + self._coarsest(self._residual(framed(means[-1]), -1))
        for k in reversed(range(len(grids.weights))):
            checkpoint()
            c = framed(torch.where(grids.keep[k], means[k], enlarged(c, means[k])))
            for weight in FIRST:
                within(c).addcmul_(self.rate[k], self._residual(c, k), value=weight)
            c = within(c)
        return c

    def cycle(self, r: Tensor, k: int = 0) -> Tensor:
        """P r with P near the inverse of `stiffness`: one V-cycle. r: 0 at the known pixels."""
        if k == len(self.grids.weights):
            return self._coarsest(r)
        e = framed(SMOOTHER * self.rate[k] * r)
        left = self._residual(e, k).add_(r).mul_(self.grids.unknown[k])
        # the mean of four residuals, times four for pixels that are twice as large
        coarse = self.cycle(F.avg_pool2d(left, 2, ceil_mode=True, divisor_override=1), k + 1)
        within(e).addcmul_(self.grids.unknown[k], enlarged(coarse, r))
        within(e).addcmul_(self.rate[k], self._residual(e, k).add_(r), value=SMOOTHER)
        return within(e)

    def improved(self, c: Tensor) -> Tensor:
        """One step of gradient descent in the V-cycle's metric with the best length, for each sample."""
        checkpoint()
        r = self.pull(c)
        e = self.cycle(r)
        gain, curvature = ((e * v).flatten(1).sum(1) for v in (r, self.stiffness(e)))
        length = torch.where(curvature > 0, gain / curvature, 0.0)
        return c + length.reshape(-1, 1, 1, 1) * e
