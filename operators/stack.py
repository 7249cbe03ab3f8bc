"""Several measurements of one picture as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from .base import LinearOperator, Operator


class Stack(Operator):
    """y = (A_1(x), ..., A_n(x)), each flattened, `B N`.

    Args:
        parts: A_1 ... A_n.
        shapes: the shape of each part's measurement without its batch.
    """

    def __init__(self, parts: Sequence[Operator], shapes: Sequence[tuple[int, ...]]):
        self.parts, self.shapes = list(parts), [torch.Size(shape) for shape in shapes]
        self.label = " and ".join(part.label for part in parts)
        self._image_shape = parts[0].image_shape((1, *shapes[0]))
        for part, shape in zip(parts, shapes, strict=True):
            _, h, w = part.image_shape((1, *shape))
            if (h, w) != self._image_shape[1:]:
                raise Refusal(
                    f"One measurement speaks of a {self._image_shape[2]} x {self._image_shape[1]} picture and another "
                    f"of {w} x {h}; both must be of the same picture."
                )

    @property
    def batch(self) -> int:
        return max(part.batch for part in self.parts)

    def image_shape(self, measurement_shape: tuple[int, ...]) -> tuple[int, int, int]:
        return self._image_shape

    def measurement_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        return (sum(shape.numel() for shape in self.shapes),)

    def check(self, image_shape: tuple[int, int, int]) -> None:
        for part in self.parts:
            part.check(image_shape)

    def split(self, y: Tensor) -> list[Tensor]:
        """y as the parts' measurements, each in its own shape."""
        pieces = y.split([shape.numel() for shape in self.shapes], dim=1)
        return [piece.reshape(len(y), *shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def join(self, pieces: Sequence[Tensor]) -> Tensor:
        """The parts' measurements as one; a part with one sample serves all."""
        batch = max(len(piece) for piece in pieces)
        return torch.cat([piece.flatten(1).expand(batch, -1) for piece in pieces], 1)

    def picture(self, y: Tensor) -> Tensor:
        """The parts side by side, at the top."""
        views = [part.picture(piece) for part, piece in zip(self.parts, self.split(y), strict=True)]
        views = [view.expand(-1, 3, -1, -1) if view.shape[1] == 1 else view for view in views]
        height = max(view.shape[2] for view in views)
        return torch.cat([torch.nn.functional.pad(v, (0, 0, 0, height - v.shape[2])) for v in views], 3)

    def support(self, y: Tensor) -> Tensor | None:
        pieces = self.split(y)
        supports = [part.support(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        if all(support is None for support in supports):
            return None
        return self.join(
            [torch.ones_like(p) if s is None else s.expand(p.shape) for s, p in zip(supports, pieces, strict=True)]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.join([part.forward(x) for part in self.parts])

    def linearise(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        seen, pulls = zip(*(part.linearise(x) for part in self.parts), strict=True)
        return self.join(seen), lambda v: sum(pull(piece) for pull, piece in zip(pulls, self.split(v), strict=True))


class LinearStack(LinearOperator, Stack):
    """The stack of linear operators: A^T y = sum_i A_i^T y_i."""

    def adjoint(self, y: Tensor) -> Tensor:
        return sum(part.adjoint(piece) for part, piece in zip(self.parts, self.split(y), strict=True))


def stack(parts: Sequence[Operator], shapes: Sequence[tuple[int, ...]]) -> Stack:
    """The operators as one; see `Stack`."""
    return (LinearStack if all(part.linear for part in parts) else Stack)(parts, shapes)
