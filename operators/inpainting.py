"""Inpainting: some pixels are known, the others are not, A = diag(keep)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..algebra.cache import Cache
from ..algebra.refusal import Refusal
from .base import Operator
from .diagonal import Mask

#: for soft edges: half of the range from black to white is what a covered pixel may be off by, and some 16 pixels along
#: an edge are off by the same, which does not average out as noise does: 0.5 * sqrt 16
DOUBT = 2.0


class Inpainting(Mask):
    """y = keep * x, with keep from a mask.

    A pixel that is covered by m < threshold shows (1 - m) x + m c with an unknown colour c, and so differs from x by
    m (c - x). It counts as a measurement of x with so much more noise; since c is the same all along an edge, and does
    not average out as noise does, a `doubt` above the spread of colours is right.

    Args:
        hole: `B 1 H W`, in [0, 1]: one mask for all pictures, or one for each. One of several may be empty.
        threshold: a pixel counts as lost from here upwards. Small, so that half-covered pixels are not trusted.
        doubt: standard deviation (image units) of the noise that a fully covered pixel would have; a pixel that is
            covered by m < threshold has m times as much, on top of the rest.
        grow: so many pixels around what the mask marks are marked as well.

    Raises:
        Refusal: when the mask marks nothing, or everything of a picture.
    """

    label = "Inpainting"

    def __init__(self, hole: Tensor, threshold: float = 0.02, doubt: float = 0.0, grow: int = 0):
        hole = dilated(hole, grow)
        unknown = hole >= threshold
        if not unknown.any():
            raise Refusal(
                "The mask is empty, so there is nothing to fill in; paint over what should be repaired."
                if hole.max() <= 0
                else f"The mask is nowhere brighter than {hole.max().item():.3g} and counts as lost from {threshold:g} "
                "upwards, so there is nothing to fill in; set the threshold lower."
            )
        full = unknown.flatten(1).all(1)
        if full.any():
            darkest = hole[full].min().item()
            raise Refusal(
                "The mask covers the whole picture, so nothing is known; leave some pixels unmasked."
                if darkest >= 0.5
                else f"The mask covers the whole picture, since its darkest value is {darkest:.3g} and counts as lost "
                f"from {threshold:g} upwards; make its black darker, or set the threshold higher, for example to 0.5."
            )
        self.keep = (~unknown).to(hole.dtype)
        self._spread = doubt * hole * self.keep if doubt > 0 else None

    @property
    def batch(self) -> int:
        return self.keep.shape[0]

    def check(self, image_shape: tuple[int, int, int]) -> None:
        if tuple(self.keep.shape[-2:]) != tuple(image_shape[-2:]):
            raise Refusal(
                f"The mask is {self.keep.shape[-1]} x {self.keep.shape[-2]} pixels and the picture is "
                f"{image_shape[-1]} x {image_shape[-2]}; make both the same size."
            )

    def spread(self, y: Tensor) -> Tensor | None:
        return self._spread

    def singular_values(self, image: Tensor) -> Tensor:
        return self.keep

    def through(self, operator: Operator) -> Inpainting:
        """The mask of what these pixels, soft ones too, reach when the operator comes after.

        Raises:
            Refusal: when they reach everything.
        """
        hidden = self.keep == 0 if self._spread is None else (self.keep == 0) | (self._spread > 0)
        operator.check((3, *hidden.shape[-2:]))
        reached, spread = operator.reach(hidden)
        if reached.flatten(1).all(1).any():
            raise Refusal(
                f"What the mask marks reaches every pixel through {operator.label}, so nothing is known; make the mask "
                "smaller, or repair the two one after the other."
            )
        mask = Inpainting(reached.to(self.keep))
        mask._spread = None if spread is None else spread.to(self.keep) * mask.keep
        return mask


def dilated(hole: Tensor, pixels: int) -> Tensor:
    """The largest value within a square of so many pixels to each side."""
    for side in ((1, 2 * pixels + 1), (2 * pixels + 1, 1)) if pixels else ():
        hole = torch.nn.functional.max_pool2d(hole, side, 1, tuple(n // 2 for n in side))
    return hole


class RandomPixels(Mask):
    """y = keep * x, where a share of the pixels (all colours of each) was lost at random.

    Args:
        fraction: share that is lost, in (0, 1).
        seed: chooses which; one choice for each size of picture.

    Raises:
        Refusal: when the fraction is not between 0 and 1.
    """

    label = "Random pixel loss"

    def __init__(self, fraction: float, seed: int = 0):
        if not 0 < fraction < 1:
            raise Refusal(f"The share of lost pixels is {fraction:g}; give a number between 0 and 1.")
        self.fraction, self.seed = fraction, seed
        self._cache = Cache()

    def singular_values(self, image: Tensor) -> Tensor:
        h, w = image.shape[-2:]
        return self._cache.get((h, w, image.dtype, image.device), lambda: self._draw(h, w).to(image)[None, None])

    def _draw(self, h: int, w: int) -> Tensor:
        """Exactly round(fraction H W) pixels are lost, though never all or none."""
        order = torch.randperm(h * w, generator=torch.Generator().manual_seed(self.seed))
        lost = min(max(round(self.fraction * h * w), 1), h * w - 1)
        return (order >= lost).reshape(h, w)


class Mosaic(Mask):
    """Demosaicing: a camera's sensor sees one colour at each pixel, in the 2 x 2 pattern of Bayer (US patent 3971065).

    y is `B 3 H W` with zeros where a colour was not seen. A grey picture of the raw values may be given as well.

    Args:
        pattern: colours of the 2 x 2 cell, row by row: RGGB, BGGR, GRBG or GBRG.
    """

    label = "Bayer mosaic"
    PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")

    def __init__(self, pattern: str = "RGGB"):
        cell = torch.tensor(["RGB".index(colour) for colour in pattern]).reshape(2, 2)
        self.cell = torch.nn.functional.one_hot(cell, 3).movedim(-1, 0).float()[None]
        self._cache = Cache()

    def check(self, image_shape: tuple[int, int, int]) -> None:
        if image_shape[0] != 3:
            raise Refusal(f"A Bayer mosaic has three colours, the picture {image_shape[0]}; give a colour picture.")

    def singular_values(self, image: Tensor) -> Tensor:
        h, w = image.shape[-2:]
        tiles = (1, 1, math.ceil(h / 2), math.ceil(w / 2))
        key = (h, w, image.dtype, image.device)
        return self._cache.get(key, lambda: self.cell.to(image).repeat(tiles)[..., :h, :w].contiguous())
