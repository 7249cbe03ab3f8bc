"""Scratches, lettering and dust: a mask of what is thin or small and has a colour of its own.

White top-hat x - opening(x) and black top-hat closing(x) - x (Serra 1982) with squares of several sizes leave what is
narrower than the square, in every colour at once. Photographs have thin bright and dark things too, in many colours,
which also occur elsewhere. Damage has one: a candidate stays if its colour is much more frequent among the candidates
of its kind than where nothing stands out, and more frequent than similar colours are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: sides of the squares, pixels
SQUARES = (5, 9, 13)
#: contrast of a candidate at sensitivity 1/2, image units, and how many times its surroundings' texture it must be
CONTRAST, TEXTURE = 0.14, 0.8
#: least times that its colour must be more frequent among candidates
RATIO = 12.0
#: least part of the candidates of similar colours that have nearly the same: paint is one colour, photographs are many
PEAK = 0.7


def _largest(x: Tensor, side: int) -> Tensor:
    return F.max_pool2d(F.max_pool2d(x, (side, 1), 1, (side // 2, 0)), (1, side), 1, (0, side // 2))


def _smallest(x: Tensor, side: int) -> Tensor:
    return -_largest(-x, side)


def top_hats(x: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """White and black top-hat, the least over the colours, `B 1 H W`."""
    white = x - _largest(_smallest(x, side), side)
    black = _smallest(_largest(x, side), side) - x
    return white.amin(1, keepdim=True), black.amin(1, keepdim=True)


def scratches(image: Tensor, sensitivity: float = 0.5) -> Tensor:
    """A mask, `1 1 H W`, 1 where a thin or small thing does not belong.

    Args:
        image: `1 C H W` in [0, 1].
        sensitivity: 0 finds the plainest only, 1 nearly everything thin.
    """
    threshold = CONTRAST * 4.0 ** (0.5 - sensitivity)
    found = torch.zeros_like(image[:, :1], dtype=torch.bool)
    for sign in (0, 1):
        hats = torch.stack([top_hats(image, side)[sign] for side in SQUARES])
        contrast = hats.amax(0)
        texture = F.avg_pool2d(F.pad(contrast.clamp_max(threshold), (20,) * 4, mode="replicate"), 41, 1)
        strong = (contrast > threshold) & (contrast > TEXTURE * texture)
        ratio = _own_colour(image, strong, contrast < threshold / 3)
        seeds = (contrast > threshold / 2) & (ratio > RATIO * 4.0 ** (0.5 - sensitivity))
        found |= seeds | (_largest(seeds.float(), 3) > 0) & (contrast > threshold)  # and their soft edges
    return found.float()


def _own_colour(image: Tensor, chosen: Tensor, plain: Tensor, bins: int = 24) -> Tensor:
    """How many times more frequent each pixel's colour is among the chosen pixels than among the plain, `1 1 H W`."""
    place = (image * (bins - 1)).round().long().clamp(0, bins - 1)[0]
    index = sum(place[c] * bins**c for c in range(len(place)))
    count = torch.zeros(2, bins ** len(place))
    count[0].index_add_(0, index.flatten(), chosen.flatten().float())
    count[1].index_add_(0, index.flatten(), plain.flatten().float())
    grid = count.reshape(2, 1, *[bins] * len(place))
    smooth = F.avg_pool3d(F.pad(grid, (1,) * 6), 3, 1) if len(place) == 3 else F.avg_pool1d(grid, 3, 1, 1)
    among, rest = smooth.reshape(2, -1)
    share = (among + 0.01) / (among.sum() + 1), (rest + 1) / (rest.sum() + 1)
    wide = F.avg_pool3d(F.pad(grid[:1], (3,) * 6), 7, 1) if len(place) == 3 else F.avg_pool1d(grid[:1], 7, 1, 3)
    peaked = among / (wide.flatten() * (7 / 3) ** len(place)).clamp_min(1e-6) > PEAK
    return (peaked * share[0] / share[1])[index][None, None]
