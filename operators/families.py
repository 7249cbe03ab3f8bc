"""The families of operators with unknown parameters; those that are not blurs (`blur_families`) are here.

levels   y = a x + b    dy/da = x, dy/db = 1
gamma    y = x^g        dy/dg = y log x
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Operator
from .blur_families import Blur, DiskRadius, FreeKernel, GaussianWidth, Motion, Spread
from .family import Family, Tangent
from .identity import Identity
from .levels import Levels
from .pointwise import Gamma

__all__ = [
    "FAMILIES", "Blur", "DiskRadius", "Exposure", "Family", "FreeKernel", "GammaCurve", "GaussianWidth", "Known",
    "Motion", "Spread", "Tangent",
]  # fmt: skip


@dataclass(frozen=True)
class Known(Family):
    """No parameters, A = I: where only the noise is unknown."""

    label = "nothing"
    linear = True
    names = ()

    def start(self) -> Tensor:
        return torch.empty(0)

    def bounded(self, theta: Tensor) -> Tensor:
        return theta

    def operator(self, theta: Tensor) -> Operator:
        return Identity()

    def tangent(self, theta: Tensor, x: Tensor) -> Tangent:
        return Tangent(x, lambda d: torch.zeros_like(x), lambda v: v.new_zeros(len(v), 0))


@dataclass(frozen=True)
class Exposure(Family):
    """y = a x + b. theta is (a), (a, b), or the as and bs of each of the colours.

    Args:
        offset: whether there is a b.
        colours: 1 for the same levels in all colours, 3 for a cast.
        gain: to begin with.
    """

    offset: bool = True
    colours: int = 1
    gain: float = 1.0

    label = "levels"
    linear = True

    @property
    def names(self) -> tuple[str, ...]:
        kinds = ("gain", "offset") if self.offset else ("gain",)
        which = ("",) if self.colours == 1 else (" red", " green", " blue")
        return tuple(kind + colour for kind in kinds for colour in which)

    def start(self) -> Tensor:
        return torch.tensor([self.gain] * self.colours + [0.0] * (self.colours if self.offset else 0))

    def bounded(self, theta: Tensor) -> Tensor:
        gain, offset = theta.split([self.colours, theta.shape[1] - self.colours], 1)
        return torch.cat([gain.clamp_min(0.02), offset], 1)

    def _planes(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        gain, offset = theta.split([self.colours, theta.shape[1] - self.colours], 1)
        return gain[:, :, None, None], offset[:, :, None, None] if self.offset else gain.new_zeros(1, 1, 1, 1)

    def operator(self, theta: Tensor) -> Operator:
        return Levels(*self._planes(theta))

    def tangent(self, theta: Tensor, x: Tensor) -> Tangent:
        def value(theta: Tensor) -> Tensor:
            gain, offset = self._planes(theta)
            return gain * x + offset

        def pull(v: Tensor) -> Tensor:
            parts = [v * x, v] if self.offset else [v * x]
            sums = [part.sum((2, 3)) for part in parts]
            return torch.cat([part.sum(1, keepdim=True) if self.colours == 1 else part for part in sums], 1)

        return Tangent(value(theta), value, pull)


@dataclass(frozen=True)
class GammaCurve(Family):
    """y = x^g on [0, 1], theta = (g)."""

    gamma: float = 1.0

    label = "gamma"
    names = ("gamma",)

    def start(self) -> Tensor:
        return torch.tensor([self.gamma])

    def bounded(self, theta: Tensor) -> Tensor:
        return theta.clamp(0.1, 8.0)

    def operator(self, theta: Tensor) -> Operator:
        return Gamma(theta[:, :, None, None])

    def tangent(self, theta: Tensor, x: Tensor) -> Tangent:
        x = x.clamp(Gamma.DARKEST, 1)
        y = x ** theta[:, :, None, None]
        slope = y * x.log()
        return Tangent(y, lambda d: slope * d[:, :, None, None], lambda v: (slope * v).flatten(1).sum(1, keepdim=True))


#: the families by their plain names
FAMILIES: dict[str, type[Family]] = {
    family.label: family for family in (GaussianWidth, DiskRadius, Motion, FreeKernel, Exposure, GammaCurve, Known)
}
