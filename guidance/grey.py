"""A grey photo stays grey: x0_hat(y) = (1, 1, 1) mean of the three colours of x0_hat.

The projection on the grey axis is linear and orthogonal. It goes after a block that listens to a measurement without
colour, whose own correction is grey, so that both hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..diffusion.state import Estimate, State
from ..measurement.measurement import Measurement
from ..measurement.plain_noise import is_grey as equal_colours
from .base import Guidance

#: what becomes of colours: a picture that is grey stays so, every picture becomes grey, none is kept grey
Colours = Literal["automatic", "keep grey", "free"]


@dataclass(frozen=True)
class Grey(Guidance):
    """Keeps the estimate on the grey axis."""

    label = "Grey"
    latent = "pictures"

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        return Estimate(in_grey(x0))


def stays_grey(measurement: Measurement, colours: Colours) -> bool:
    """Whether the answer is to be kept on the grey axis."""
    return colours == "keep grey" or (colours == "automatic" and is_grey(measurement))


def in_grey(x: Tensor) -> Tensor:
    """`B 3 H W` with the mean of the colours in each."""
    return x.mean(1, keepdim=True).expand_as(x)


def is_grey(measurement: Measurement) -> bool:
    """Whether y is a grey picture in three colours, seen by an operator that leaves grey pictures grey."""
    y, operator = measurement.y, measurement.operator
    if not operator.pictorial or y.ndim != 4 or y.shape[1] != 3 or not equal_colours(y):
        return False
    channels, height, width = measurement.image_shape
    probe = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(0)).to(y)
    return equal_colours(operator.forward(probe.expand(1, channels, -1, -1)))
