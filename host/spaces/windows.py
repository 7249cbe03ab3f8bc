"""Where a model looks in pictures larger than it was made for, and how what it sees is put together.

    x0_hat(x) = sum_k w_k x0_hat(x in window k) / sum_k w_k

(MultiDiffusion, Bar-Tal et al. 2023, https://arxiv.org/abs/2302.08113, whose weights are 1). Here w_k falls off
linearly within the overlap, since a window knows least at its edge, and the inner windows move by a quarter of the
overlap to either side from step to step, so that no line through the picture is an edge all the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: steps of the fixed pattern, down and across: irrational, so that it does not repeat itself
_PATTERN = (0.6180339887, 0.7548776662)

#: where a MODEL that looks in windows keeps them
ATTACHMENT = "posterior_tiled"

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Windows:
    """Windows of one size.

    Args:
        side: of a window, in the model's own pixels.
        overlap: of neighbours, at least half of it in any step; less than `side`.
        region: `1 1 H W`, where a prediction is asked for; all of the picture where it is None.
    """

    side: int
    overlap: int
    region: Tensor | None = None

    def over(self, height: int, width: int, step: int = 0) -> list[Window]:
        """The windows that cover the region of a picture; `step` chooses where they are."""
        down, across = (
            [slice(start, start + min(self.side, size)) for start in self._starts(size, (step * move) % 1.0)]
            for size, move in zip((height, width), _PATTERN, strict=True)
        )
        every = [(rows, columns) for rows in down for columns in across]
        if self.region is None or tuple(self.region.shape[-2:]) != (height, width):
            return every
        return [window for window in every if bool(self.region[(..., *window)].any())]

    def _starts(self, size: int, phase: float) -> list[int]:
        if size <= self.side:
            return [0]
        count, last = -((size - self.overlap) // -(self.side - self.overlap)), size - self.side
        shift = self.overlap * (phase - 0.5) / 2
        inner = (round(k * last / (count - 1) + shift) for k in range(1, count - 1))
        return [0, *(min(max(start, 0), last) for start in inner), last]

    def weights(self, window: Window, like: Tensor) -> Tensor:
        """w_k, `h w`."""
        sides = (side.stop - side.start for side in window)
        rows, columns = (self._ramp(size, like) for size in sides)
        return rows[:, None] * columns

    def _ramp(self, size: int, like: Tensor) -> Tensor:
        edge = torch.arange(size, device=like.device, dtype=like.dtype) + 0.5
        return (torch.minimum(edge, edge.flip(0)) / max(self.overlap, 1)).clamp(max=1.0)


def at_once(patcher, shape: Sequence[int]) -> list[int]:
    """The shape of what a MODEL sees at once of a state `B C H W` or `B C 1 H W`."""
    windows = patcher.get_attachment(ATTACHMENT)
    return list(shape) if windows is None else [*shape[:-2], *(min(windows.side, size) for size in shape[-2:])]


def blended(windows: Windows, places: Sequence[Window], parts: Sequence[Tensor], elsewhere: Tensor) -> Tensor:
    """The weighted mean of what was seen in windows; `elsewhere` where there is none.

    Args:
        parts: `B C h w`, one for each place.
        elsewhere: `B C H W`.
    """
    return _Blended.apply(windows, places, elsewhere, *parts)


class _Blended(torch.autograd.Function):
    """A sum whose gradient takes no more memory than the picture."""

    @staticmethod
    def forward(ctx, windows: Windows, places: Sequence[Window], elsewhere: Tensor, *parts: Tensor) -> Tensor:
        total, mass = torch.zeros_like(elsewhere), elsewhere.new_zeros(elsewhere.shape[-2:])
        for place, part in zip(places, parts, strict=True):
            weight = windows.weights(place, elsewhere)
            total[(..., *place)] += weight * part
            mass[place] += weight
        ctx.windows, ctx.places = windows, places
        ctx.save_for_backward(mass)
        return torch.where(mass > 0, total / torch.where(mass > 0, mass, 1.0), elsewhere)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple:
        (mass,) = ctx.saved_tensors
        shares = [
            gradient[(..., *place)] * (ctx.windows.weights(place, gradient) / mass[place]) for place in ctx.places
        ]
        return None, None, torch.where(mass > 0, 0.0, gradient), *shares
