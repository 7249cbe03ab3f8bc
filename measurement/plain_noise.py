"""Noise that is told from texture: by its colours, or by its scales.

`noise_level` takes the smoothest tenth of a picture and still counts its texture as noise (up to 0.03 on a clean photo
of a wood). Two things tell them apart.

Colour: texture is nearly grey, and white noise has no colour of its own. Along (1, -1, 0) and (1, 1, -2), the finest
diagonal wavelet coefficients of a photo show the same sigma as along (1, 1, 1) if it is noise, and next to none if it
is texture; the lower of the two is taken.

Scale: a grey picture has no such directions. Its amplitudes fall with frequency as 1 / f or faster (Field 1987,
https://doi.org/10.1364/JOSAA.4.002379), so that texture's variance is at least four times as large an octave below, and
white noise's is the same in any orthonormal basis: with s_1^2 = N + T and s_2^2 = N + 4 T,

    N = (4 s_1^2 - s_2^2) / 3

On 48 squares of training photographs (256 pixels, 8 bits) with noise of 0.005, 0.01, 0.02 and 0.05 the colours are
within 20 % on 98, 100, 100 and 98 %, `noise_level` on 58, 75, 79 and 94; where there is none they give 0 to 0.0028, it
up to 0.032. The mean of the posterior at what they say is 3.0, 4.4, 5.8 and 7.8 dB above the noisy photo (24 squares of
128 pixels), within 0.05 of that at the true level, and 0.2, 2.9, 5.2 and 7.6 at what `noise_level` says.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..algebra.devices import precise
from .noise import ROUNDING
from .noise_level import BLOCK, SHARE, chi_squared_quantile, diagonal_wavelet, noise_level

#: less noise than this, image units, is not told from what a camera or a change of size leaves
LEAST = 0.006
#: as little is told from the rounding of 8 bits where there is no reason to believe the picture clean
SEEN = 3 * ROUNDING
#: part of the finest coefficients' deviation that noise must have in a grey picture, else they are texture
PART = 0.5
#: colours that differ by no more, image units, are equal but for rounding
EQUAL = 1.5 / 255


def is_grey(image: Tensor) -> bool:
    """Whether all colours of `B C H W` are equal, but for the rounding of 8 bits and of a conversion."""
    return bool((image.amax(1) - image.amin(1)).max() <= EQUAL)


def white_level(image: Tensor, lost: Tensor | None = None) -> float:
    """sigma of white noise, image units; 0 where there is none that stands out from texture.

    Args:
        image: `1 C H W` in [0, 1], C = 3 or 1, at least 64 x 64; three equal colours count as one.
        lost: `1 1 H W`, 1 where a pixel does not belong to the photo.
    """
    image = precise(image)
    unfit = _unfit(image) if lost is None else torch.maximum(_unfit(image), lost.to(image))
    level = _by_scales(image[:, :1], unfit) if is_grey(image) else _by_colours(image, unfit)
    return level if level > LEAST else 0.0


def estimated_level(images: Tensor) -> float:
    """sigma of the white noise of pictures of which nothing else is known, the mean over a batch, image units.

    As `white_level`, but from three times the rounding of 8 bits on, below which it is 0; and where the colours have no
    noise of their own (film, JPEG), by the scales of the brightness.

    Args:
        images: `B C H W` in [0, 1], C = 3 or 1, at least 64 x 64.

    Raises:
        Refusal: when a side is shorter.
    """
    noise_level(images)  # refuses what is too small
    return sum(_any_level(image[None]) for image in precise(images)) / len(images)


def _any_level(image: Tensor) -> float:
    unfit = _unfit(image)
    level = 0.0 if is_grey(image) else _by_colours(image, unfit)
    level = level if level > SEEN else _by_scales(image.mean(1, keepdim=True), unfit)
    return level if level > SEEN else 0.0


def _unfit(image: Tensor) -> Tensor:
    """`1 1 H W`, 1 where a noise was cut off."""
    return ((image <= 0) | (image >= 1)).to(image).amax(1, keepdim=True)


def _by_colours(image: Tensor, unfit: Tensor) -> float:
    red, green, blue = image.split(1, 1)
    opposed = (red - green) / 2**0.5, (red + green - 2 * blue) / 6**0.5
    return min(_variance(diagonal_wavelet(plane), unfit, BLOCK, 2).sqrt().item() for plane in opposed)


def _by_scales(grey: Tensor, unfit: Tensor) -> float:
    first = _variance(diagonal_wavelet(grey), unfit, BLOCK, 2)
    second = _variance(diagonal_wavelet(_halved(grey)), unfit, BLOCK // 2, 4)
    level = ((4 * first - second) / 3).clamp_min(0).sqrt().item()
    return level if level > PART * first.sqrt().item() else 0.0


def _halved(x: Tensor) -> Tensor:
    """The smooth coefficients of the finest scale, whose diagonal ones are those of the next scale, `B 1 h w`."""
    root = 3**0.5
    low = torch.tensor([1 + root, 3 + root, 3 - root, 1 - root], dtype=torch.float64) / (4 * 2**0.5)
    return F.conv2d(x, torch.outer(low, low).to(x)[None, None], stride=2)


def _variance(coefficients: Tensor, unfit: Tensor, side: int, pixels: int) -> Tensor:
    """The lower tenth of the blocks' energies, as if they were noise.

    Args:
        unfit: `1 1 H W`; blocks of which more than a twentieth is unfit are left out.
        side: of a block in coefficients, each of so many pixels.
    """
    energy, unfit = F.avg_pool2d(coefficients.square(), side), F.avg_pool2d(unfit, side * pixels)
    h, w = (min(sizes) for sizes in zip(energy.shape[-2:], unfit.shape[-2:], strict=True))
    energy, usable = energy[..., :h, :w].flatten(), (unfit[..., :h, :w] <= 0.05).flatten()
    expected = chi_squared_quantile(SHARE, side**2)
    return (energy[usable] if usable.any() else energy).quantile(SHARE) / expected
