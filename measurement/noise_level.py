"""How noisy a picture is, from the picture alone.

Donoho and Johnstone (1994, https://doi.org/10.1093/biomet/81.3.425) read sigma off the finest diagonal wavelet
coefficients, where a picture has little and noise as much as elsewhere. A median over the whole picture still counts
texture as noise (up to four times too much at sigma = 0.01 on photos of 256 pixels), so the energy is taken block by
block, and its lower tenth is compared with that of pure noise: only some part of the picture need be smooth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..algebra.devices import precise
from ..algebra.refusal import Refusal

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


def _blocks(x: Tensor, side: int) -> Tensor:
    """Means over blocks and colours, `B h w`."""
    return torch.nn.functional.avg_pool2d(x, side).mean(1)
