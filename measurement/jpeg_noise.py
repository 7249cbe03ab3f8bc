"""Noise that was in a picture before JPEG, as far as JPEG has left it.

A coefficient that is rounded to n q had the probability

    P(n given sigma) = F((n + 1/2) q / sigma) - F((n - 1/2) q / sigma),    F the normal law,

where there was nothing but noise; sigma is its maximum of likelihood over a band of frequencies, of the flattest blocks
by their lowest frequencies, which say nothing about the noise of others. In colour it is read off the chroma, where
photographs have little: noise of sigma in red, green and blue has sigma norm(w) there, w a row of the matrix of YCbCr,
and half of that after the mean of 2 x 2. Grey noise must be white: as loud in the middle band as in the high one.

What JPEG itself adds to the brightness has, as its blocks may lie anywhere, the power

    N(f) = sum_k v_k |b_k(f)|^2 / 64,    v = s q^2 / 12 + (1 - s) min(q^2 / 12, E c^2) / 2

with b_k the k-th function of the DCT and s the share of its coefficients c that were not rounded to 0.

On training photographs, 4:2:0 at qualities 75 and 90: noise of 0.05 is found as 0.036 to 0.059, and at most 0.03 where
there is none. What JPEG has rounded to 0 cannot be found.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..operators.jpeg import JPEG, TO_YCBCR, dct
from .jpeg_tables import Compression, ceil, reduced

#: part of the blocks that are looked at, and the number of blocks that it takes
FLAT, BLOCKS = 0.15, 100
#: sums of the two frequencies, from and to: by which a block is flat; of chroma; middle and high ones of brightness
LOW, CHROMA, MIDDLE, HIGH = (1, 2), (3, 6), (3, 4), (5, 8)
#: deviations that are tried, levels of 8 bits; the first one stands for none
DEVIATIONS = torch.logspace(-0.6, 1.9, 80, dtype=torch.float64)
#: part of the finest step of a band that its deviation must be to be trusted
SEEN = 0.25
#: less than this, image units, is not told from texture, in colour and in grey
LEAST, LEAST_GREY = 0.035, 0.02
#: part of the middle band's deviation that the high one of grey noise must have
WHITE = 0.88


def noise_before(image: Tensor, found: Compression) -> float:
    """sigma of white noise before the compression, image units; 0 where none is seen.

    Args:
        image: `1 3 H W` in [0, 1], the picture that `compression` took.
        found: what it gave.
    """
    matrix = torch.tensor(TO_YCBCR, dtype=torch.float64)
    brightness, *colours = torch.einsum("ij,jhw->ihw", matrix, (255 * image[0].double()).round())
    if found.grey:
        middle, high = (_level([brightness - 128], found, 0, band) for band in (MIDDLE, HIGH))
        sigma = min(middle, high) / 255
        return sigma if high >= WHITE * middle and sigma > LEAST_GREY else 0.0
    rows, columns = JPEG.SUBSAMPLINGS[found.subsampling]
    left = matrix[1:].square().sum(1).mean().sqrt().item() / (rows * columns) ** 0.5  # of sigma
    sigma = _level(colours, found, 1, CHROMA) / left / 255
    return sigma if sigma > LEAST else 0.0


def rounded_power(image: Tensor, found: Compression, side: int) -> Tensor:
    """N at the frequencies of a block, and that of 8 bits before and after, image units, `n n/2+1` float64.

    Args:
        image: `1 C H W` in [0, 1], C = 3 or 1, the picture that `compression` took.
        found: what it gave.
        side: n, pixels, from 8.
    """
    pixels = (255 * image[0, :3].double()).round()
    brightness = (
        pixels[0] if len(pixels) < 3 else torch.einsum("c,chw->hw", torch.tensor(TO_YCBCR[0]).to(pixels), pixels)
    )
    step = torch.tensor(found.tables[0], dtype=torch.float64)
    numbers = (_blocks(brightness - 128, found, 0) / step).round()
    kept, most = (numbers != 0).double().mean(0), step**2 / 12
    lost = torch.minimum(most, (numbers * step).square().mean(0)) / 2
    variance = (kept * most + (1 - kept) * lost).reshape(8, 8)
    lines = torch.fft.fft(F.pad(dct(), (0, side - 8))).abs().square() / 8  # 8 n
    return (lines.mT @ variance @ lines[:, : side // 2 + 1] + 1 / 6) / 255**2


def _level(planes: list[Tensor], found: Compression, table: int, band: tuple[int, int]) -> float:
    """The likeliest deviation of the coefficients in a band, of the flattest blocks, levels; 0 where they are
    few, or the steps too wide to see it."""
    step = torch.tensor(found.tables[table], dtype=torch.float64)
    numbers = torch.stack([(_blocks(plane, found, table) / step).round() for plane in planes])  # planes, blocks, 64
    order = torch.arange(8)[:, None] + torch.arange(8)
    low, inside = ((order >= first).flatten() & (order <= last).flatten() for first, last in (LOW, band))
    energy = (numbers * step)[..., low].square().sum((0, 2))
    if len(energy) < BLOCKS:
        return 0.0
    flattest = energy.argsort()[: int(FLAT * len(energy))]
    n, half = numbers[:, flattest][..., inside].abs(), step[inside] / 2
    edges = (torch.erf((2 * n + side) * half / (DEVIATIONS[:, None, None, None] * 2**0.5)) for side in (1, -1))
    high, low = edges
    likely = DEVIATIONS[((high - low) / 2).clamp_min(1e-9).log().sum((1, 2, 3)).argmax()].item()
    return likely if likely > max(2 * SEEN * half.min().item(), DEVIATIONS[0].item()) else 0.0


def _blocks(plane: Tensor, found: Compression, table: int) -> Tensor:
    """Coefficients of the whole blocks, `n 64`, of chroma at its own size."""
    ratio = JPEG.SUBSAMPLINGS[found.subsampling] if table else (1, 1)
    offset = found.offset[::-1]  # rows, columns
    samples = reduced(plane, ratio, offset) if table else plane
    first = (slice(ceil(-cut % (8 * n), n), None) for cut, n in zip(offset, ratio, strict=True))
    samples = samples[tuple(first)]
    h, w = (n // 8 * 8 for n in samples.shape)
    blocks = rearrange(samples[:h, :w], "(h i) (w j) -> (h w) i j", i=8, j=8)
    return (dct() @ blocks @ dct().mT).flatten(1)
