"""The power spectrum of a photograph, as blur and noise leave it.

A picture x that was blurred by k and has white noise has, in expectation, the periodogram

    E I(f) = e^{s(f)} P(f) + sigma^2,    P = |k_hat|^2 smeared by the window,    s(f) = log of the spectrum of x

I is the mean over overlapping tapered blocks of the luminance (Welch 1967, https://doi.org/10.1109/TAU.1967.1161901), P
the transform of the kernel's autocorrelation times that of the taper, as in the debiased Whittle likelihood
(Sykulski et al. 2019, https://doi.org/10.1093/biomet/asy071). Photographs are alike in s (Torralba and Oliva 2003,
https://doi.org/10.1088/0954-898X/14/3/302): a cubic in log f, harmonics of the angle, and a ridge along each axis,
whose weights are normal around the means of `SHARP`. So is log I around its model, but for outliers, as Student's law.
What a JPEG adds is no white noise: there sigma^2 is the power of what it has rounded (`jpeg_noise`), and log sigma^2
has some such terms too (`NOISE`). All weights are the most likely ones (Levenberg and Marquardt), and what remains is
the evidence for a kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..operators.jpeg import TO_YCBCR

#: mean and standard deviation of each weight among sharp training photographs (`bench blind_blur --learn`)
SHARP = (
    ((-4.96, 2.0), (-2.39, 0.60), (-0.22, 0.45), (-0.16, 0.20)),  # 1, u, u^2, u^3 with u = log(f / 0.2)
    ((0.0, 0.43), (0.0, 0.22), (0.0, 0.31), (0.0, 0.15)),  # (1, u) cos 2 phi, (1, u) sin 2 phi
    ((0.21, 0.26), (-0.05, 0.16), (0.0, 0.21), (0.0, 0.10)),  # 4 phi
    ((0.0, 0.12), (0.0, 0.11), (0.0, 0.11), (0.0, 0.07)),  # 6 phi
    ((0.07, 0.15), (0.04, 0.09), (0.0, 0.09), (0.0, 0.06)),  # 8 phi
    ((0.35, 0.74), (0.35, 0.74)),  # ridges where f_x = 0 and where f_y = 0, 0.012 wide
)
#: standard deviations of the log of the noise: level, f^2, u, (1, u) cos 4 phi, cos 8 phi, and the ridges; white noise
#: has the level alone. Around what a JPEG has rounded (the second) it varies little: with a free shape it takes what is
#: fine in soft photographs
NOISE = (2.0, 1.0, 0.2, 0.2, 0.1, 0.1, 0.3, 0.3), (1.0, 2.0, 0.4, 0.3, 0.2, 0.2, 0.4, 0.4)
#: variance of log I around its model: of textures, and of a periodogram, over the number of blocks
TEXTURE, PERIODOGRAM = 0.12, 0.9
#: degrees of freedom of Student's law; share of the frequencies that count, since the taper makes neighbours alike
FREEDOM, INDEPENDENT = 5.0, 0.7
#: lowest and highest frequency that are looked at, cycles in a pixel. Above there is what cameras, changes of size and
#: JPEG leave, which looks like a Gaussian blur: with it 14 % of undamaged training photographs seem to have one of more
#: than 0.8 pixels, without it 5 %
LOWEST, HIGHEST = 0.025, 0.42
#: below this one all of them are looked at, above every other one
ALL_BELOW = 0.12
#: largest number of blocks in a row or column
ROW = 12


@dataclass(frozen=True)
class Fit:
    """Of kernels to one picture. log_likelihood: nats, `K`; noise: sigma, image units, `K`."""

    log_likelihood: Tensor
    noise: Tensor


class Spectrum:
    """The periodogram of one picture.

    Args:
        picture: `C H W` in [0, 1].
        side: n, of the blocks, pixels, no more than H and W.
        rounded: power of what a JPEG has rounded, `n n/2+1` (`rounded_power`); None for none.
    """

    def __init__(self, picture: Tensor, side: int, rounded: Tensor | None = None):
        window = taper(side)
        rows, columns = (_starts(length, side) for length in picture.shape[-2:])
        grey = picture.double()
        if len(picture) == 3:
            grey = torch.einsum("c,chw->hw", torch.tensor(TO_YCBCR[0], dtype=torch.float64), grey)[None]
        blocks = torch.stack([grey[0, i : i + side, j : j + side] for i in rows for j in columns])
        blocks = blocks - (blocks * window).sum((-2, -1), keepdim=True) / window.sum()
        power = torch.fft.rfft2(blocks * window).abs().square().mean(0)
        self.side, self.compressed, self.variance = side, rounded is not None, TEXTURE + PERIODOGRAM / len(blocks)
        seen = frequencies(side)[2]
        self.log_power = power[seen].clamp_min(1e-16).log().float()
        lowest = power.clamp_min(1e-16).quantile(0.1).log() - 0.5
        self.floor = (lowest.expand(len(self.log_power)) if rounded is None else rounded[seen].log()).float()
        # noise that is independent in red, green and blue is less in their mean
        self.loss = 1 / math.sqrt(sum(share**2 for share in TO_YCBCR[0])) if len(picture) == 3 else 1.0

    def fit(self, smeared: Tensor, every: int = 1, rounds: int = 8) -> Fit:
        """Of each kernel.

        Args:
            smeared: P at the frequencies that are looked at, `K F` (`smeared`).
            every: only each so many-th frequency, in haste.
            rounds: of Levenberg and Marquardt.
        """
        mean, basis, floor, squares, mixed, floor_squares = (
            each[::every] for each in _terms(self.side, self.compressed)
        )
        target, least = self.log_power[::every], self.floor[::every]
        known = mean + smeared[:, ::every].log()
        spread, n = FREEDOM * self.variance, basis.shape[1]
        weight = INDEPENDENT * every * (FREEDOM + 1) / spread  # Student's curvature at 0
        z = torch.zeros(len(smeared), n + floor.shape[1])
        best, damping = torch.full((len(z),), -torch.inf), torch.ones(len(z))
        best_z, model, share = z, torch.zeros_like(known), torch.zeros_like(known)
        for turn in range(rounds + 1):
            signal = known + z[:, :n] @ basis.mT
            trial = torch.logaddexp(signal, least + z[:, n:] @ floor.mT)
            value = -weight * spread / 2 * ((target - trial).square() / spread).log1p().sum(1) - z.square().sum(1) / 2
            better = value > best
            best, best_z = torch.where(better, value, best), torch.where(better[:, None], z, best_z)
            if turn == rounds:
                break
            damping = torch.where(better, damping / 4, damping * 8)
            model = torch.where(better[:, None], trial, model)
            share = torch.where(better[:, None], (signal - trial).exp(), share)  # d model / d s
            off, rest = target - model, 1 - share
            trust = weight / (1 + off.square() / spread)
            pull = torch.cat([(trust * off * share) @ basis, (trust * off * rest) @ floor], 1) - best_z
            curvature = torch.eye(z.shape[1]).repeat(len(z), 1, 1)
            curvature[:, :n, :n] += ((trust * share**2) @ squares).unflatten(1, (n, -1))
            curvature[:, :n, n:] = ((trust * share * rest) @ mixed).unflatten(1, (n, -1))
            curvature[:, n:, :n] = curvature[:, :n, n:].mT
            curvature[:, n:, n:] += ((trust * rest**2) @ floor_squares).unflatten(1, (z.shape[1] - n, -1))
            curvature = curvature + torch.diag_embed(damping[:, None] * curvature.diagonal(dim1=1, dim2=2))
            z = best_z + torch.linalg.solve(curvature, pull)
        noise = (least + best_z[:, n:] @ floor.mT).exp().mean(1).sqrt()
        return Fit(best, noise * self.loss)


def _starts(length: int, side: int) -> list[int]:
    """First pixels of blocks that overlap by half or more and cover a line, up to `ROW` of them."""
    count = min(ROW, math.ceil((length - side) / (side / 2)) + 1)
    return np.linspace(0, length - side, count).round().astype(int).tolist()


@lru_cache(2)
def taper(side: int) -> Tensor:
    """Hann's window, `n n` float64, of sum of squares 1, so that white noise has the periodogram sigma^2."""
    line = torch.hann_window(side, periodic=True, dtype=torch.float64)
    return torch.outer(line, line) / line.square().sum()


@lru_cache(2)
def frequencies(side: int) -> tuple[Tensor, Tensor, Tensor]:
    """f_y and f_x, cycles in a pixel, and which are looked at: each `n n/2+1`."""
    fy, fx = torch.meshgrid(
        torch.fft.fftfreq(side, dtype=torch.float64), torch.fft.rfftfreq(side, dtype=torch.float64), indexing="ij"
    )
    f, odd = (fx**2 + fy**2).sqrt(), (side * (fx + fy)).round() % 2 == 1
    twice = ((fx == 0) | (fx == 0.5)) & (fy < 0)
    return fy, fx, (f > LOWEST) & (f < HIGHEST) & ~twice & ~(odd & (f > ALL_BELOW))


@lru_cache(4)
def _terms(side: int, compressed: bool) -> tuple[Tensor, ...]:
    """Mean of s, `F`; how s and the log of the noise vary, `F K`, `F L`, by weights of variance 1; their products."""
    terms, (fy, fx, seen) = harmonics(side), frequencies(side)
    mean, deviation = torch.tensor([row for group in SHARP for row in group], dtype=torch.float64).unbind(1)
    basis, f = terms * deviation, (fx**2 + fy**2).sqrt()[seen]
    level, u, *angular = terms[:, [0, 1, 8, 9, 16, 20, 21]].unbind(1)
    floor = torch.stack([level, f**2, u, *angular], 1) * torch.tensor(NOISE[compressed])
    products = [(a[:, :, None] * b[:, None]).flatten(1) for a, b in ((basis, basis), (basis, floor), (floor, floor))]
    return tuple(each.float() for each in (terms @ mean, basis, floor, *products))


def harmonics(side: int) -> Tensor:
    """The terms of s, `F K`."""
    fy, fx, seen = frequencies(side)
    fy, fx = fy[seen], fx[seen]
    u, angle = ((fx**2 + fy**2).sqrt() / 0.2).log(), torch.atan2(fy, fx)
    terms = [u**power for power in range(4)]
    for n in (2, 4, 6, 8):
        for wave in (torch.cos(n * angle), torch.sin(n * angle)):
            terms += [wave, wave * u]
    return torch.stack([*terms, *((-((f / 0.012) ** 2)).exp() for f in (fx, fy))], 1)


@lru_cache(2)
def _taper_correlation(side: int) -> Tensor:
    """The taper's autocorrelation at the lags of a block, 1 at 0, `n n`."""
    twice = (2 * side, 2 * side)
    full = torch.fft.irfft2(torch.fft.rfft2(taper(side), s=twice).abs().square(), s=twice)
    lag = torch.fft.fftfreq(side, 1 / side).long()
    return full[lag][:, lag] / full[0, 0]


def smeared(kernels: list[Tensor], side: int) -> Tensor:
    """P of kernels `1 1 h w`, `K F` at the frequencies that are looked at; right where they are no wider than n / 2."""
    laid = torch.stack([_folded(kernel[0, 0].double(), side) for kernel in kernels])
    correlation = torch.fft.irfft2(torch.fft.rfft2(laid).abs().square(), s=(side, side))
    power = torch.fft.rfft2(correlation * _taper_correlation(side)).real
    return power[:, frequencies(side)[2]].clamp_min(1e-7).float()


def _folded(kernel: Tensor, side: int) -> Tensor:
    """A kernel on a block, periodic, `n n`; where it lies does not matter."""
    h, w = (math.ceil(length / side) * side for length in kernel.shape)
    wide = torch.nn.functional.pad(kernel, (0, w - kernel.shape[1], 0, h - kernel.shape[0]))
    return wide.reshape(h // side, side, w // side, side).sum((0, 2))
