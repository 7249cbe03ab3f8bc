"""Noise with neighbours read off a picture: how strong it is, and how large its blotches are, in each colour.

Blocks of 16 x 16 pixels are looked at in the cosine transform d. Those count that lie in the flattest surroundings, by
the energy of the blocks *around* them, so that the choice knows nothing of their own noise; the median of c_k^2 over
them, divided by that of chi^2_1, is the power I_k. It is explained by

    m_k = white^2 + sigma^2 d_k^T R d_k + a / |k|^3,    R_ij = exp(-|i - j|^2 / (4 l^2))

where R is the covariance of white noise blurred by a Gaussian of l pixels, seen through the block exactly, and the last
term what is left of the picture (photographs have about that spectrum; Field 1987,
https://doi.org/10.1364/JOSAA.4.002379). For each l of a table the weights maximise Whittle's likelihood
-sum_k log m_k + I_k / m_k by the multiplicative updates of Itakura-Saito matrix factorisation (Fevotte et al. 2009,
https://doi.org/10.1162/neco.2008.04-08-771).

Where texture is everywhere, the differences of two colours over sqrt 2 are looked at in the same way: they have little
of a picture, and as much noise as the colours if its colours are independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.transforms import dct
from .coloured_noise import ColouredNoise, blotches
from .noise_level import noise_level

#: side of a block, pixels; blocks overlap by half, but in pictures of more pixels than this
BLOCK, LARGE = 16, 2**19
#: part of the blocks that lie in the flattest surroundings, and the least number of them
SHARE, LEAST = 0.15, 24
#: lengths among which l is looked for, pixels
LENGTHS = torch.linspace(0.3, 3.0, 28, dtype=torch.float64)
#: median of chi-squared with one degree of freedom
MEDIAN = 0.4549364
#: what makes blotches certain: their deviation, image units, and length, pixels; log-likelihood gained per frequency;
#: spread of log I - log m, which is 0.4 to 0.5 for noise; their deviation between colours. Chosen on thirty crops of
#: 128 x 128 of photographs that the embedded prior was trained on: none is taken for blotchy as it is, or with white
#: noise of 0.05; all are with blotches of 0.08 and 1 pixel, half of them between colours only
SIGMA, LENGTH, GAIN, SPREAD, APART = 0.015, 0.75, 0.025, 0.65, 0.025


@dataclass(frozen=True)
class NoiseSpectrum:
    """What was found, a number for each colour, or each pair of neighbouring colours, `C`.

    Args:
        sigma: standard deviation of the blotches, image units.
        length: of the Gaussian that blurs white noise into such blotches, pixels.
        white: standard deviation of the white noise on top, image units.
        gain: log-likelihood for each frequency, in nats, by which blotches explain the picture better than none.
        spread: standard deviation of log I - log m.
    """

    sigma: Tensor
    length: Tensor
    white: Tensor
    gain: Tensor
    spread: Tensor

    @property
    def coloured(self) -> bool:
        """Whether there are blotches for certain, in most colours."""
        certain = (self.sigma > SIGMA) & (self.sigma > self.white) & (self.gain > GAIN) & (self.spread < SPREAD)
        certain &= (self.length > LENGTH) & (self.length < LENGTHS[-1])  # the longest are the picture's own
        return 2 * int(certain.sum()) > len(certain)

    @property
    def total(self) -> float:
        """Standard deviation of a number, image units, the root mean square over the colours."""
        return (self.sigma**2 + self.white**2).mean().sqrt().item()

    def noise(self, size: tuple[int, int]) -> ColouredNoise:
        """As the noise of a measurement of (H, W)."""
        sigma, length, white = (each.reshape(1, -1, 1, 1) for each in (self.sigma, self.length, self.white))
        return blotches(sigma, length, size, white)


def noise_spectrum(image: Tensor) -> NoiseSpectrum:
    """The noise of one picture.

    Args:
        image: `1 C H W` in [0, 1], at least 64 x 64; blocks that touch black or white in more than a twentieth of their
            values are left out where others are there.

    Raises:
        Refusal: when a side is shorter.
    """
    noise_level(image)  # refuses what is too small
    x = image[0].cpu().double()
    found = _spectrum(x, x)
    if found.coloured or len(x) != 3:
        return found
    between = _spectrum((x - x.roll(1, 0)) / 2**0.5, x)
    return between if between.coloured and between.sigma.median() > APART else found


def _spectrum(planes: Tensor, x: Tensor) -> NoiseSpectrum:
    """The noise of planes `C H W`; x: the picture, which knows where it was cut at black or white."""
    k = torch.arange(BLOCK, dtype=torch.float64)
    radius = (k[:, None] ** 2 + k**2).sqrt().flatten()
    fine = radius >= 3  # the rest is the picture's
    step = 1 if x[0].numel() > LARGE else 2  # from a block to the next that does not overlap
    power = dct(_blocks(planes, step)).square().flatten(-2)[..., fine]
    usable = _blocks(((x <= 0) | (x >= 1)).float(), step).mean((0, -2, -1)) <= 0.05
    basis = _components(radius[fine], fine)
    found = []
    for energies in power:
        chosen = _flat(energies.mean(-1), usable, step)
        seen = (energies[chosen].median(0).values / MEDIAN).clamp_min(1e-9)
        weights, cost = _fit(seen, basis)
        _, plain = _fit(seen, basis[:1, ::2])
        best = int(cost.argmin())
        white, sigma, _ = weights[best].sqrt()
        spread = (seen / (weights[best] @ basis[best])).log().std()
        found.append(torch.stack([sigma, LENGTHS[best], white, plain[0] - cost[best], spread]))
    return NoiseSpectrum(*torch.stack(found, 1))


def _blocks(x: Tensor, step: int) -> Tensor:
    """`C h w 16 16`."""
    return x.unfold(1, BLOCK, BLOCK // step).unfold(2, BLOCK, BLOCK // step)


def blotches_in(images: Tensor) -> ColouredNoise | None:
    """The noise of pictures `B C H W`, as `noise_spectrum` finds it; None where not all of them have blotches."""
    found = [noise_spectrum(image[None]) for image in images]
    if not all(each.coloured for each in found):
        return None
    return ColouredNoise(torch.cat([each.noise(images.shape[-2:]).spectrum for each in found]))


def _flat(energy: Tensor, usable: Tensor, step: int) -> Tensor:
    """Which blocks lie in the flattest surroundings, by those that touch but do not overlap, bool `h w`."""
    h, w = energy.shape
    wide = torch.nn.functional.pad(energy.log()[None, None], (step,) * 4, mode="replicate")[0, 0]
    around = [
        wide[dy : dy + h, dx : dx + w] for dy in (0, step, 2 * step) for dx in (0, step, 2 * step)
        if (dy, dx) != (step, step)
    ]  # fmt: skip
    score = torch.stack(around).mean(0)
    if usable.sum() >= LEAST:
        score = score.masked_fill(~usable, torch.inf)
    count = min(max(int(SHARE * score.numel()), LEAST), score.numel())
    return score <= score.flatten().kthvalue(count).values


def _components(radius: Tensor, fine: Tensor) -> Tensor:
    """White noise, blotches of each length, and the picture: their power at each frequency, `L 3 K`."""
    n = torch.arange(BLOCK, dtype=torch.float64)
    R = torch.exp(-((n[:, None] - n) ** 2) / (4 * LENGTHS[:, None, None] ** 2))
    line = dct(R).diagonal(dim1=-2, dim2=-1)  # dct works on both axes: D R D^T
    blurred = (line[:, :, None] * line[:, None]).flatten(1)[:, fine]
    return torch.stack([torch.ones_like(blurred), blurred, (radius**-3).expand_as(blurred)], 1)


def _fit(power: Tensor, components: Tensor, rounds: int = 100) -> tuple[Tensor, Tensor]:
    """Weights of the components, `L 3`, and sum_k log m + I / m over the number of frequencies, halved, `L`."""
    weights = power.mean() / components.sum(1).mean(-1)[:, None].expand(components.shape[:2])
    for _ in range(rounds):
        m = torch.einsum("lc,lck->lk", weights, components)
        up = torch.einsum("lck,lk->lc", components, power / m**2)
        down = torch.einsum("lck,lk->lc", components, 1 / m)
        weights = weights * (up / down.clamp_min(1e-300)).sqrt()
    m = torch.einsum("lc,lck->lk", weights, components)
    return weights, (m.log() + power / m).mean(-1) / 2
