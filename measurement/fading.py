"""Whether a picture has faded, y = a x + b, and what lies over it that has not.

The brightness of the darkest and the brightest 1 / 2000 of a photo is near black and near white: 0.042 and 0.922 in the
median of 100 crops of training photographs, which faded to 0.35 + 0.4 x with noise of 0.02 are restored to 27.2 dB by
these, and to 25.4 by what half percent ends are. The histogram of a photo has no gap; what was written, torn off or has
fallen on a faded one since has a brightness beyond one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operators.levels import Levels

#: a photo that spans less, image units, from its darkest to its brightest 1 / 2000
FADED = 0.5
#: these two, and what they are in the median
ENDS, DARKEST, BRIGHTEST = (0.0005, 0.9995), 0.042, 0.922
#: width of a gap, image units; the part of the pixels that may lie in it; that may lie beyond it; bins of the histogram
GAP, SPARSE, BEYOND, BINS = 0.1, 0.002, 0.3, 128


@dataclass(frozen=True)
class Fading:
    """y = gain x + offset."""

    gain: float
    offset: float

    def operator(self) -> Levels:
        return Levels(self.gain, self.offset)

    def words(self) -> str:
        return f"faded: black is {max(self.offset, 0):.2f}, white {self.offset + self.gain:.2f}"


def fading(image: Tensor) -> tuple[Fading | None, Tensor]:
    """How the picture has faded, if it has, and a mask `1 1 H W` of what has not. image: `1 C H W` in [0, 1]."""
    lost = beyond_gaps(image)
    belongs = F.max_pool2d(lost, 3, 1, 1) == 0
    smooth = F.avg_pool2d(F.pad(image, (1,) * 4, mode="replicate"), 3, 1)  # without most of the noise
    values = smooth[belongs.expand_as(smooth)].double().sort().values
    low, high = (values[min(int(share * len(values)), len(values) - 1)].item() for share in ENDS)
    if not 0.05 < high - low < FADED:
        return None, torch.zeros_like(lost)
    gain = (high - low) / (BRIGHTEST - DARKEST)
    return Fading(gain, low - DARKEST * gain), lost


def beyond_gaps(image: Tensor) -> Tensor:
    """1 where the brightness lies beyond a gap of the histogram, seen from most of the picture, `1 1 H W`."""
    place = (image.mean(1, keepdim=True).clamp(0, 1) * (BINS - 1)).round().long()
    share = torch.bincount(place.flatten(), minlength=BINS).double() / place.numel()
    width = math.ceil(GAP * BINS)
    up_to = torch.cat([share.new_zeros(1), share.cumsum(0)])
    starts = torch.arange(BINS - width + 1)
    below, above = up_to[starts], 1 - up_to[starts + width]
    empty = 1 - below - above <= SPARSE
    dark, bright = ((starts[empty & (part > 1e-9) & (part <= BEYOND)] + width // 2).double() for part in (below, above))
    beyond = torch.zeros_like(place, dtype=torch.bool)
    if len(dark):
        beyond |= place < dark.mean()
    if len(bright):
        beyond |= place > bright.mean()
    return beyond.to(image)
