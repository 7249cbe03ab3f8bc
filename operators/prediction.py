"""Errors of predicting each number of a picture from those before it: noise with neighbours becomes white.

For n ~ N(0, S) with S_ij = c(i - j) + v_i [i = j], and the numbers N(i) that come before i (row by row, in a half disk)
and were measured, the best linear prediction and its error are

    a_i = S_NN^-1 S_Ni,    d_i^2 = S_ii - S_iN a_i,    (L n)_i = (n_i - a_i . n_N(i)) / d_i

L n is white, L^T L = S^-1, as far as what lies further away adds nothing (Vecchia 1988,
https://doi.org/10.1111/j.2517-6161.1988.tb01729.x). What was not measured is left out, exactly.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from .base import LinearOperator

#: systems that are solved at once
CHUNK = 8192


class PredictionError(LinearOperator):
    """y = factor L n.

    Args:
        covariance: c, `B C 4R+1 4R+1`, c(0) in the middle; R is the radius of N, pixels.
        keep: 1 where a number was measured, 0 elsewhere, `B C H W` (C = 1: the same in all colours).
        variance: v, what was added to each number on its own, broadcastable against keep.
        factor: a number.
    """

    label = "Prediction error"
    pictorial = False

    def __init__(self, covariance: Tensor, keep: Tensor, variance: Tensor | float = 0.0, factor: float = 1.0):
        self.keep, self.radius = keep, covariance.shape[-1] // 4
        c, k, v = (torch.as_tensor(each).to(keep.device, torch.float64) for each in (covariance, keep, variance))
        shape = torch.broadcast_shapes((*c.shape[:2], 1, 1), k.shape, v.shape)
        predictors, deviation = _predictors(c, k.expand(shape), v.expand(shape), self.radius)
        self.predictors, self.gain = predictors.to(keep), (factor * keep / deviation).to(keep)

    @property
    def batch(self) -> int:
        return len(self.keep)

    def support(self, y: Tensor) -> Tensor:
        return self.keep.expand(max(len(self.keep), len(y)), *y.shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        r = self.radius
        wide = torch.nn.functional.pad(x, (r, r, r, 0))
        error = x.clone()
        for a, (dy, dx) in zip(self.predictors.unbind(2), _before(r), strict=True):
            error -= a * _part(wide, dy + r, dx + r, x)
        return self.gain * error

    def adjoint(self, y: Tensor) -> Tensor:
        r, scaled = self.radius, self.gain * y
        wide = torch.nn.functional.pad(scaled, (r, r, r, 0))
        for a, (dy, dx) in zip(self.predictors.unbind(2), _before(r), strict=True):
            _part(wide, dy + r, dx + r, y).sub_(a * scaled)
        return _part(wide, r, r, y)


def _before(radius: int) -> list[tuple[int, int]]:
    """Offsets (rows, columns) of N."""
    square = [(dy, dx) for dy in range(-radius, 1) for dx in range(-radius, radius + 1) if dy < 0 or dx < 0]
    return [(dy, dx) for dy, dx in square if dy**2 + dx**2 <= (radius + 0.5) ** 2]


def _part(wide: Tensor, top: int, left: int, like: Tensor) -> Tensor:
    return wide[..., top : top + like.shape[-2], left : left + like.shape[-1]]


def _predictors(covariance: Tensor, keep: Tensor, variance: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """a, `B C K H W`, and d, `B C H W`."""
    before = _before(r)
    places = torch.tensor([*before, (0, 0)], device=keep.device)
    apart = places[:, None] - places  # K+1 K+1 2
    table = covariance[..., (apart[..., 0] + 2 * r), (apart[..., 1] + 2 * r)]
    shape = keep.shape
    table = table.expand(*shape[:2], -1, -1)

    def beside(x: Tensor) -> Tensor:
        wide = torch.nn.functional.pad(x, (r, r, r, 0))
        return torch.stack([_part(wide, dy + r, dx + r, x) for dy, dx in (*before, (0, 0))], -1)

    known, own = beside(keep) > 0, beside(variance)
    known[..., -1] = True
    a, d2 = keep.new_empty(*shape, len(before)), keep.new_empty(shape)
    for b in range(shape[0]):
        for c in range(shape[1]):
            plain = (known[b, c].all(-1) & (own[b, c] == 0).all(-1)).flatten()
            rest = (~plain).nonzero()[:, 0]
            groups = [(plain.nonzero()[:1, 0], plain)] if plain.any() else []
            groups += [(part, part) for part in rest.split(CHUNK)]
            for of, to in groups:
                use, more = known[b, c].flatten(0, 1)[of], own[b, c].flatten(0, 1)[of]
                both = use[:, :, None] & use[:, None]
                S = torch.where(both, table[b, c], 0.0) + torch.diag_embed(torch.where(use, more, 1.0))
                weights = torch.linalg.solve(S[:, :-1, :-1], S[:, :-1, -1])
                a[b, c].flatten(0, 1)[to] = weights
                d2[b, c].flatten()[to] = S[:, -1, -1] - (weights * S[:, :-1, -1]).sum(-1)
    return rearrange(a, "b c h w k -> b c k h w"), d2.clamp_min(torch.finfo(keep.dtype).tiny).sqrt()
