"""Whether a picture has faded, y = a x + b, and what lies over it that has not.

The darkest place of a photo is black, and its brightest is white, or nearly: 0.015 and 0.973 in the mean of 744 crops
of training photographs (192 pixels). They are small, so that they must be seen through the noise without being
smoothed away: by the mean of those pixels around that have the same surroundings (`same_surroundings`). What the noise
still adds to the ends of 1 / 10000 is three quarters of its deviation. On 48 training photographs without colours,
faded to 0.35 + 0.4 x with noise of 0.02 and torn, the levels alone allow 25.1 dB (with 30 for all else), with the ends
of 1 / 2000 of means of 3 x 3 pixels 24.6. The rest is what photos differ by; the shape of their histograms says no
more.

The histogram of a photo has no gap; what was written, torn off or has fallen on a faded one since has a brightness
beyond one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operators.levels import Levels
from .plain_noise import white_level

#: a photo that spans less, image units, from its darkest to its brightest 1 / 2000 of means of 3 x 3 pixels
FADED, ROUGH_ENDS = 0.5, (0.0005, 0.9995)
#: the ends, and what they are in the mean; how many deviations of the noise are left there
ENDS, DARKEST, BRIGHTEST, LEFT = (0.0001, 0.9999), 0.015, 0.973, 0.75
#: pixels to either side among which `same_surroundings` looks; its strength, in deviations of the noise
REACH, STRENGTH = 2, 0.7
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
    smooth = F.avg_pool2d(F.pad(image, (1,) * 4, mode="replicate"), 3, 1)  # without most of the noise
    low, high = _ends(smooth, lost, ROUGH_ENDS)
    if not 0.05 < high - low < FADED:
        return None, torch.zeros_like(lost)
    found = levels_of(image, white_level(image, lost), lost)
    if found.gain >= 1:  # of dots and lines, whose means are grey and which are not
        return None, torch.zeros_like(lost)
    return found, lost


def levels_of(image: Tensor, noise: float, lost: Tensor | None = None) -> Fading:
    """The levels of a photo, whatever they are.

    Args:
        image: `B C H W`, image units.
        noise: its sigma, image units; 0 for none.
        lost: `1 1 H W`, 1 where a pixel does not belong to the photo.
    """
    lost = torch.zeros_like(image[:, :1]) if lost is None else lost
    low, high = _ends(same_surroundings(image, noise) if noise else image, lost, ENDS)
    low, high = low + LEFT * noise, high - LEFT * noise
    gain = max(high - low, 0.02) / (BRIGHTEST - DARKEST)
    return Fading(gain, low - DARKEST * gain)


def _ends(image: Tensor, lost: Tensor, shares: tuple[float, float]) -> tuple[float, ...]:
    """Quantiles of what belongs to the photo, but for the rim of what does not."""
    belongs = F.max_pool2d(lost, 3, 1, 1) == 0
    values = image[belongs.expand_as(image)].double().sort().values
    return tuple(values[round(share * (len(values) - 1))].item() for share in shares)


def same_surroundings(image: Tensor, noise: float) -> Tensor:
    """Non-local means (Buades, Coll and Morel 2005, https://doi.org/10.1109/CVPR.2005.38) of the pixels near by.

    x_i = sum_j w_ij y_j / sum_j w_ij,    w_ij = exp(-max(d_ij^2 - 2 sigma^2, 0) / (h sigma)^2)

    with d_ij^2 the mean square difference of the 3 x 3 pixels around i and around j, of all colours.
    """
    height, width = image.shape[-2:]
    wide = F.pad(image, (REACH,) * 4, mode="reflect")
    total, weights = torch.zeros_like(image), torch.zeros_like(image[:, :1])
    for dy in range(2 * REACH + 1):
        for dx in range(2 * REACH + 1):
            other = wide[..., dy : dy + height, dx : dx + width]
            apart = (other - image).square().mean(1, keepdim=True)
            apart = F.avg_pool2d(F.pad(apart, (1,) * 4, mode="reflect"), 3, 1)
            weight = torch.exp((2 * noise**2 - apart).clamp_max(0) / (STRENGTH * noise) ** 2)
            total, weights = total + weight * other, weights + weight
    return total / weights


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
