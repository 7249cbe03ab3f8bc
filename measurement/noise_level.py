"""How noisy a picture is, from the picture alone.

Donoho and Johnstone (1994, https://doi.org/10.1093/biomet/81.3.425) read sigma off the finest diagonal wavelet
coefficients, where a picture has little and noise as much as elsewhere. A median over the whole picture still counts
texture as noise (up to four times too much at sigma = 0.01 on photos of 256 pixels), so the energy is taken block by
block, and its lower tenth is compared with that of pure noise: only some part of the picture need be smooth.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..algebra.devices import precise
from ..algebra.refusal import Refusal
from .noise import ROUNDING

#: side of a block in coefficients (twice as many pixels)
BLOCK = 8
#: the quantile of the blocks' energies, and the standard normal quantile that belongs to it
SHARE, NORMAL_QUANTILE = 0.1, -1.2815516


def diagonal_wavelet(x: Tensor) -> Tensor:
    """The finest diagonal coefficients in Daubechies' orthonormal basis with two vanishing moments, `B C h w`."""
    root = 3**0.5
    high = torch.tensor([1 - root, root - 3, 3 + root, -1 - root], dtype=torch.float64) / (4 * 2**0.5)
    kernel = torch.outer(high, high).to(x)[None, None]
    planes = torch.nn.functional.conv2d(x.flatten(0, 1)[:, None], kernel, stride=2)
    return planes.reshape(*x.shape[:2], *planes.shape[-2:])


def noise_level(image: Tensor) -> Tensor:
    """sigma of white Gaussian noise in each picture, image units.

    The energies of n coefficients are sigma^2 chi^2_n / n where there is nothing but noise; their quantile is that of
    Wilson and Hilferty (1931, https://doi.org/10.1073/pnas.17.12.684). Blocks that touch black or white in more than
    a twentieth of their values are left out: noise is cut off there.

    Args:
        image: `B C H W` in [0, 1], at least 64 x 64.

    Raises:
        Refusal: when a side is shorter.
    """
    if min(image.shape[-2:]) < 64:
        raise Refusal(
            f"The picture is {image.shape[-1]} x {image.shape[-2]}; estimating its noise takes at least 64 x 64 pixels."
        )
    image = precise(image)
    energy = _blocks(diagonal_wavelet(image).square(), BLOCK)
    cut = _blocks(((image <= 0) | (image >= 1)).to(image), 2 * BLOCK)
    h, w = (min(a, b) for a, b in zip(energy.shape[-2:], cut.shape[-2:], strict=True))
    energy, cut = (blocks[..., :h, :w].flatten(1) for blocks in (energy, cut))
    n = BLOCK**2 * image.shape[1]
    expected = (1 - 2 / (9 * n) + NORMAL_QUANTILE * (2 / (9 * n)) ** 0.5) ** 3
    levels = []
    for energies, cuts in zip(energy, cut, strict=True):
        usable = energies[cuts <= 0.05]
        levels.append((usable if len(usable) else energies).quantile(SHARE) / expected)
    return torch.stack(levels).sqrt().float()


def estimated_level(image: Tensor) -> float:
    """`noise_level`, the mean over a batch, and 0 where it is no more than the rounding of 8 bits."""
    level = noise_level(image).mean().item()
    return level if level > 2 * ROUNDING else 0.0


#: gains and read-out deviations among which the noise curve is looked for, image units
GAINS = torch.cat([torch.zeros(1), torch.logspace(-4, -1, 61)]).double()
READS = torch.cat([torch.zeros(1), torch.logspace(-3, -0.7, 47)]).double()


def noise_curve(image: Tensor) -> tuple[float, float]:
    """Gain and read-out noise of a camera: the variance of a pixel is gain x + sigma^2, image units.

    The lower tenth of the blocks' energies again, now as a function of their brightness m: quantile regression (Koenker
    and Bassett 1978, https://doi.org/10.2307/1913643) of log e on log(gain m + sigma^2), each colour for itself,

        min over (gain, sigma) of sum_b rho(log e_b - log(gain m_b + sigma^2) - log quantile),
        rho(u) = u (0.1 - [u < 0])

    Args:
        image: `1 C H W` in [0, 1], at least 64 x 64; clipped blocks are left out as in `noise_level`.

    Returns:
        gain and sigma; a gain of 0 is noise that is the same everywhere.
    """
    noise_level(image)  # refuses what is too small
    image = precise(image)
    pool = torch.nn.functional.avg_pool2d
    planes = [
        pool(diagonal_wavelet(image).square(), BLOCK), pool(image, 2 * BLOCK),
        pool(((image <= 0) | (image >= 1)).to(image), 2 * BLOCK),
    ]  # fmt: skip
    h, w = (min(plane.shape[dim] for plane in planes) for dim in (-2, -1))
    energy, mean, cut = (plane[..., :h, :w].flatten() for plane in planes)
    energy, mean = energy[cut <= 0.05], mean[cut <= 0.05]
    if len(energy) < 24:
        return 0.0, noise_level(image).mean().item()
    n = BLOCK**2
    expected = (1 - 2 / (9 * n) + NORMAL_QUANTILE * (2 / (9 * n)) ** 0.5) ** 3
    off = energy.clamp_min(1e-12).log() - math.log(expected)
    losses = []
    for gain in GAINS.to(off):
        below = off - (gain * mean + READS.to(off)[:, None] ** 2).clamp_min(1e-12).log()
        losses.append((below * (SHARE - (below < 0).to(off))).mean(1))
    best = int(torch.stack(losses).argmin())
    return GAINS[best // len(READS)].item(), READS[best % len(READS)].item()


def _blocks(x: Tensor, side: int) -> Tensor:
    """Means over blocks and colours, `B h w`."""
    return torch.nn.functional.avg_pool2d(x, side).mean(1)
