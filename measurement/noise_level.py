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

#: side of a block in coefficients (twice as many pixels)
BLOCK = 8
#: the quantile of the blocks' energies
SHARE = 0.1


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
    expected = chi_squared_quantile(SHARE, BLOCK**2 * image.shape[1])
    levels = []
    for energies, cuts in zip(energy, cut, strict=True):
        usable = energies[cuts <= 0.05]
        levels.append((usable if len(usable) else energies).quantile(SHARE) / expected)
    return torch.stack(levels).sqrt().float()


#: gains and read-out deviations among which the noise curve is looked for, image units
GAINS = torch.cat([torch.zeros(1), torch.logspace(-4, -1, 61)]).double()
READS = torch.cat([torch.zeros(1), torch.logspace(-3, -0.7, 47)]).double()


#: the quantile between colours, which keep little texture, and the part of the colours' own variance that must be left
#: there; chosen on 24 crops of 256 x 256 of photographs that the embedded prior was trained on: gain and read-out noise
#: of 0.003 and 0.03 are within 20 % in 96 % and all of them, by the colours alone in 67 % and 75 %
BETWEEN, LEFT = 0.35, 0.25


def noise_curve(image: Tensor) -> tuple[float, float]:
    """Gain and read-out noise of a camera: the variance of a pixel is gain x + sigma^2, image units.

    The lower tenth of the blocks' energies again, now as a function of their brightness m: quantile regression (Koenker
    and Bassett 1978, https://doi.org/10.2307/1913643) of log e on log(gain m + sigma^2), each colour for itself,

        min over (gain, sigma) of sum_b rho(log e_b - log(gain m_b + sigma^2) - log quantile),
        rho(u) = u (q - [u < 0]),    q = 0.1

    The difference of two colours over sqrt 2 has the same law at their mean brightness if their noise is independent,
    and less of the picture. It is taken where it keeps some of the noise.

    Args:
        image: `1 C H W` in [0, 1], at least 64 x 64; clipped blocks are left out as in `noise_level`.

    Returns:
        gain and sigma; a gain of 0 is noise that is the same everywhere.
    """
    level = noise_level(image).mean().item()
    image = precise(image)
    cut = ((image <= 0) | (image >= 1)).to(image)
    own = _curve(image, image, cut, SHARE)
    if own is None:
        return 0.0, level
    if image.shape[1] != 3:
        return own
    beside = image.roll(1, 1)
    mean = (image + beside) / 2
    between = _curve((image - beside) / 2**0.5, mean, torch.maximum(cut, cut.roll(1, 1)), BETWEEN)
    variances = [gain * mean.mean().item() + read**2 for gain, read in (own, between or own)]
    return own if between is None or variances[1] < LEFT * variances[0] else between


def _curve(planes: Tensor, brightness: Tensor, cut: Tensor, share: float) -> tuple[float, float] | None:
    """Gain and sigma of planes `1 C H W` by the quantile `share`; None where too few blocks are not cut."""
    pool = torch.nn.functional.avg_pool2d
    found = [
        pool(diagonal_wavelet(planes).square(), BLOCK), pool(brightness, 2 * BLOCK), pool(cut, 2 * BLOCK),
    ]  # fmt: skip
    h, w = (min(plane.shape[dim] for plane in found) for dim in (-2, -1))
    energy, mean, cut = (plane[..., :h, :w].flatten() for plane in found)
    energy, mean = energy[cut <= 0.05], mean[cut <= 0.05]
    if len(energy) < 24:
        return None
    off = energy.clamp_min(1e-12).log() - math.log(chi_squared_quantile(share, BLOCK**2))
    losses = []
    for gain in GAINS.to(off):
        below = off - (gain * mean + READS.to(off)[:, None] ** 2).clamp_min(1e-12).log()
        losses.append((below * (share - (below < 0).to(off))).mean(1))
    best = int(torch.stack(losses).argmin())
    return GAINS[best // len(READS)].item(), READS[best % len(READS)].item()


def chi_squared_quantile(share: float, n: int) -> float:
    """Of chi^2_n / n (Wilson and Hilferty)."""
    normal = math.sqrt(2) * torch.special.erfinv(torch.tensor(2 * share - 1, dtype=torch.float64)).item()
    return (1 - 2 / (9 * n) + normal * (2 / (9 * n)) ** 0.5) ** 3


def _blocks(x: Tensor, side: int) -> Tensor:
    """Means over blocks and colours, `B h w`."""
    return torch.nn.functional.avg_pool2d(x, side).mean(1)
