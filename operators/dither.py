"""Error diffusion (Floyd and Steinberg 1976): fewer colours, with the error of each pixel passed on to the next ones.

Which pixel gets which colour hangs on all those before it, so there is no derivative; but the error has known
statistics (Ulichney 1988, https://doi.org/10.1109/5.3288; Knox 1992). The quantiser's own error e is nearly independent
of the picture and even within its cell, and what is passed on shapes it:

    y = x + (delta - h) * e,    var e = D^2 / 12,    var(y - x) = (1 + sum h^2) D^2 / 12 = 0.111 D^2

with Floyd and Steinberg's weights h = (7, 3, 5, 1) / 16 and D the step between two colours. So the picture itself was
measured, with that much noise at each pixel. That the noise lies in high frequencies is not used: taken as white, it
is only trusted less in the low ones than it could be.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .identity import Identity
from .pointwise import Palette

#: standard deviation of y - x over the step D
GRAIN = ((1 + (7**2 + 3**2 + 5**2 + 1**2) / 16**2) / 12) ** 0.5


class ErrorDiffusion(Identity):
    """y = x with the noise that error diffusion leaves.

    Args:
        step: D, between two levels of a colour, image units; or a palette, where each colour has a step of its own, its
            mean distance to the six nearest ones (as many as a cubic lattice has at one step).
    """

    label = "Error diffusion"

    def __init__(self, step: float | Palette):
        super().__init__()
        self.palette = step if isinstance(step, Palette) else None
        if self.palette is None:
            self.steps = torch.tensor([step])
        else:
            distance = torch.cdist(self.palette.colours, self.palette.colours).sort().values
            self.steps = distance[:, 1:7].mean(1)

    def spread(self, y: Tensor) -> Tensor:
        if self.palette is None:
            return GRAIN * self.steps.to(y)
        return GRAIN * self.steps.to(y)[self.palette.nearest(y)][:, None]
