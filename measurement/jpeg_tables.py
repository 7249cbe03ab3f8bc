"""How a picture was compressed by JPEG, from its pixels alone: tables, chroma and where its blocks begin.

Decoded coefficients are multiples of their quantisation step, so that the histogram of each frequency is a comb (Fan
and de Queiroz 2003, https://doi.org/10.1109/TIP.2002.807361). With f the density of a frequency's coefficients, a
mixture of normal laws around 0 that is fitted to it, a step q leaves

    p(c given q) = sum_n P_q(n) t((c - q n) / s),    P_q(n) = F((n + 1/2) q) - F((n - 1/2) q),    F' = f,

where s is the rounding of pixels (or a later, weaker compression), and t Student's law. Evidence is
log p(c given q) - log f(c), summed over blocks, in nats, with a part of outliers. Where every coefficient was rounded
to 0 it is level in q; a table of libjpeg costs one number instead of 64 and is taken where all others speak no louder
(minimum description length), else its shape fills the gaps. The grid begins where the most coefficients are 0
(Nikoukhah et al. 2021, https://doi.org/10.5201/ipol.2021.390); chroma has the coarsest size whose enlargement by
libjpeg's triangle filter explains the colours, after its inverse by least squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..algebra.refusal import Refusal
from ..operators.jpeg import CHROMINANCE, JPEG, LUMINANCE, TO_YCBCR, dct, enlarge, quantisation_table

#: standard deviations of a coefficient around its comb: 8-bit rounding; a second compression that was weaker
ROUNDINGS = (0.33, 1.0, 2.0)
#: part of the coefficients that follow no comb
OUTLIERS = 0.02
#: largest RMS by which colours may differ from the enlargement of fewer ones, levels
ROUNDED = 0.35
#: largest side of the part that is looked at, pixels, and number of blocks
SIDE, BLOCKS = 768, 1500
#: largest step and coefficient
STEPS, LARGEST = 255, 1040
#: frequencies where all pixels of a block count alike, so that a picture of few levels has a comb there by itself
ALIKE = (0, 4, 32, 36)
#: nats that a comb must be better than none: 64 entries of 255 steps each, for libjpeg's tables one number in 100
FREE, KNOWN = 64 * math.log(STEPS), 30.0
#: part of the evidence by which a table of its own must be better, since rounding follows no law exactly
TOLERANCE = 0.05


@dataclass(frozen=True)
class Compression:
    """What was found.

    Args:
        tables: of luminance and chrominance, 64 steps each, row by row.
        subsampling: a key of `JPEG.SUBSAMPLINGS`.
        offset: (x, y), columns and rows of the first block that are cut off.
        quality: libjpeg's, where the luminance table is one of its; else that of the most similar table.
        standard: whether it is libjpeg's.
        evidence: nats by which a comb explains the brightness better than none.
        grey: whether there is no colour.
    """

    tables: tuple[tuple[int, ...], tuple[int, ...]]
    subsampling: str
    offset: tuple[int, int]
    quality: int
    standard: bool
    evidence: float
    grey: bool

    def operator(self) -> JPEG:
        return JPEG(subsampling=self.subsampling, tables=self.tables, offset=self.offset)

    def words(self) -> str:
        first = min(self.tables[0])
        table = f"quality {self.quality}" if self.standard else f"tables of its own, near quality {self.quality}"
        cut = f", cut by {self.offset[0]} and {self.offset[1]} pixels" if any(self.offset) else ""
        colour = "grey" if self.grey else f"chroma {self.subsampling}"
        return f"JPEG of {table} (steps of brightness {first} to {max(self.tables[0])}), {colour}{cut}"


def compression(image: Tensor) -> Compression | None:
    """The strongest compression that a picture has gone through, or None.

    Args:
        image: `1 C H W` in [0, 1], C = 3 or 1, at least 64 x 64, its pixels as they were decoded (cut, not resized).

    Raises:
        Refusal: when a side is shorter.
    """
    if min(image.shape[-2:]) < 64:
        raise Refusal(
            f"The picture is {image.shape[-1]} x {image.shape[-2]}; reading its compression takes at least 64 x 64 "
            "pixels."
        )
    pixels, (left, top) = _middle(255 * image[0].double())
    rgb = pixels.expand(3, -1, -1)
    # the decoder's own numbers are whole, and the rounding of red, green and blue moves them by less than 1/2
    luma, *chroma = torch.einsum("ij,jhw->ihw", torch.tensor(TO_YCBCR, dtype=torch.float64), rgb.round()).round()
    cut = ((rgb <= 0.5) | (rgb >= 254.5)).any(0).double()
    x, y = _origin(luma)
    blocks = _coefficients(luma[y:, x:] - 128, cut[y:, x:])
    found = None
    for rounding in ROUNDINGS:
        comb = Combs(*blocks, rounding)
        table, quality, standard, evidence = comb.table(LUMINANCE)
        stronger = found is None or standard > found[2] or table.sum() > 1.3 * found[0].sum() and standard == found[2]
        if evidence > 0 and stronger:
            found = table, quality, standard, evidence, rounding
    if found is None:
        return None
    table, quality, standard, evidence, rounding = found
    grey = max(plane.abs().max().item() for plane in chroma) < 1.5
    name, (across, down), comb = "4:4:4", ((-x) % 8, (-y) % 8), None
    if not grey:
        name, samples = _chroma(torch.stack(chroma), cut, (down, across))
        rows, columns = JPEG.SUBSAMPLINGS[name]
        bad, best = reduced(cut, (rows, columns), (down, across)), -1.0
        for dy in range(0, 8 * rows, 8):
            for dx in range(0, 8 * columns, 8):
                first = (slice(ceil(-(down + dy) % (8 * rows), rows), None),
                         slice(ceil(-(across + dx) % (8 * columns), columns), None))  # fmt: skip
                both = zip(*(_coefficients(plane[first], bad[first]) for plane in samples), strict=True)
                trial = Combs(*(torch.cat(each, 1) for each in both), rounding)
                if trial.score() > best:
                    best, comb, origin = trial.score(), trial, (across + dx, down + dy)
        across, down = origin
    second = table if comb is None else comb.table(CHROMINANCE, quality if standard else None)[0]
    period = [8 * n for n in JPEG.SUBSAMPLINGS[name]]
    offset = ((across - left) % period[1], (down - top) % period[0])
    tables = tuple(tuple(int(q) for q in t.flatten()) for t in (table, second))
    return Compression(tables, name, offset, quality, standard, evidence, grey)


def ceil(n: int, by: int) -> int:
    return -(-n // by)


def _chroma(chroma: Tensor, cut: Tensor, offset: tuple[int, int]) -> tuple[str, Tensor]:
    """The coarsest size of chroma whose enlargement explains the colours, and its samples, `2 h w`."""
    touched = torch.nn.functional.max_pool2d(cut[None, None], 5, 1, 2)[0, 0] > 0
    for name in ("4:2:0", "4:2:2"):
        ratio = JPEG.SUBSAMPLINGS[name]
        samples = torch.stack([reduced(plane, ratio, offset) for plane in chroma])
        large = enlarge(samples[:, None], ratio)[:, 0, offset[0] % ratio[0] :, offset[1] % ratio[1] :]
        off = (large[:, : cut.shape[0], : cut.shape[1]] - chroma).square()[:, 4:-4, 4:-4]
        if off[:, ~touched[4:-4, 4:-4]].mean().sqrt() < ROUNDED:
            return name, samples
    return "4:4:4", chroma


def _middle(x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """A part of at most `SIDE` pixels, and its first column and row."""
    top, left = (max(0, (n - SIDE) // 2) for n in x.shape[-2:])
    return x[..., top : top + SIDE, left : left + SIDE], (left, top)


def _coefficients(plane: Tensor, cut: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients of the whole blocks, `64 n`; of those that touch neither black nor white where there are enough.

    And by how much the rounding of pixels moves each more than 8 x 8 independent roundings would: where a block is
    level along an axis, eight pixels are rounded alike, and sqrt(8) times as much reaches the coefficients across.
    """
    h, w = (n // 8 * 8 for n in plane.shape)
    basis = dct()
    blocks = rearrange(plane[:h, :w], "(h i) (w j) -> (h w) (i j)", i=8, j=8)
    bad = rearrange(cut[:h, :w], "(h i) (w j) -> (h w) (i j)", i=8, j=8).mean(1, keepdim=True)
    distinct = torch.cat([blocks, bad], 1).unique(dim=0)  # a block that comes again says nothing new
    blocks, bad = distinct[:, :-1].unflatten(1, (8, 8)), distinct[:, -1]
    blocks = blocks[bad == 0 if (bad == 0).sum() >= 24 else bad <= bad.quantile(0.25)]
    blocks = blocks[:: max(1, math.ceil(len(blocks) / BLOCKS))]
    alike = torch.ones_like(blocks)
    alike[:, 0] *= torch.where(blocks.diff(dim=1).abs().mean((1, 2)) < 0.25, 8**0.5, 1.0)[:, None]
    alike[:, :, 0] *= torch.where(blocks.diff(dim=2).abs().mean((1, 2)) < 0.25, 8**0.5, 1.0)[:, None]
    coefficients = basis @ blocks @ basis.mT
    alike = torch.where(coefficients.abs() < 0.5, 1.0, alike)
    return coefficients.flatten(1).mT.contiguous(), alike.flatten(1).mT.contiguous()


def _origin(luma: Tensor) -> tuple[int, int]:
    """Column and row, 0 to 7, at which the blocks begin: where the most coefficients are 0."""
    basis, h = dct(), luma.shape[0]
    columns = luma.unfold(1, 8, 1) @ basis.mT  # H W-7 8, from every column
    best = (-1.0, 0, 0)
    for y in range(8):
        rows = rearrange(columns[y : y + (h - y) // 8 * 8], "(h i) w j -> h w j i", i=8) @ basis.mT
        zero = (rows.abs() < 0.5).flatten(2)[..., 1:].double().mean(2).mean(0)
        for x in range(8):
            share = zero[x::8].mean().item()
            best = max(best, (share, x, y))
    return best[1], best[2]


def reduced(plane: Tensor, ratio: tuple[int, int], offset: tuple[int, int]) -> Tensor:
    """The plane before it was enlarged by the triangle filter, by least squares; samples start at a whole pair."""
    for dim, times in enumerate(ratio):
        if times == 2:
            n, first = plane.shape[dim], offset[dim] % 2
            where = torch.arange(n) + first
            index, side = where // 2, torch.where(where % 2 == 0, -1, 1)
            weight = torch.zeros(n, int(index.max()) + 3, dtype=plane.dtype)
            weight[torch.arange(n), index + 1] += 0.75
            weight[torch.arange(n), index + 1 + side] += 0.25
            gram = weight.mT @ weight + 1e-9 * torch.eye(weight.shape[1], dtype=plane.dtype)
            solved = torch.linalg.solve(gram, weight.mT @ (plane if dim == 0 else plane.mT))[1:-1]
            plane = solved if dim == 0 else solved.mT
    return plane


class Combs:
    """Evidence for each step at each frequency.

    Args:
        coefficients: `64 n`.
        alike: `64 n`, factors of s.
        rounding: s.
    """

    def __init__(self, coefficients: Tensor, alike: Tensor, rounding: float):
        size, index = coefficients.abs().float().sort(1, descending=True)
        alike, n = alike.float().gather(1, index), size.shape[1]
        self.loud = (size > 4.5 * rounding).sum(1) >= 3  # others are rounding alone
        small = (size < 0.75).sum(1)  # many that are nearly the same: eight of them stand for all
        spoken = torch.arange(n) < (n - small)[:, None]
        few = n - small[:, None] + (small[:, None] * (torch.arange(8) + 0.5) / 8).long()
        few = few.clamp_max(n - 1)
        frequency = torch.arange(64)[:, None]
        self.k = torch.cat([frequency.expand(64, n)[spoken], frequency.expand(64, 8).flatten()])
        self.c = torch.cat([size[spoken], size.gather(1, few).flatten()])
        self.s = rounding * torch.cat([alike[spoken], torch.ones(64 * 8)])
        self.w = torch.cat([torch.ones(int(spoken.sum())), (small[:, None] / 8).expand(64, 8).flatten()])
        scales = rounding * 2.0 ** torch.arange(11)
        normal = torch.exp(-((self.c / scales[:, None]) ** 2) / 2) / (scales[:, None] * math.sqrt(2 * math.pi))
        normal[0] = 0.375 * student(self.c / self.s) / self.s  # what is 0 says nothing, whatever the step
        weights = torch.full((11, 64), 1 / 11)
        for _ in range(15):
            part = weights[:, self.k] * normal
            part = self.w * part / part.sum(0).clamp_min(1e-30)
            weights = torch.zeros(11, 64).index_add(1, self.k, part) / n
        self.density = (weights[:, self.k] * normal).sum(0).clamp_min(1e-30)  # f(c)
        edges = torch.arange(2 * LARGEST + STEPS + 2) / 2  # F at all halves, less F(0), twice
        self.above = weights.mT @ torch.erf(edges / (scales[:, None] * math.sqrt(2)))

    def evidence(self, steps: Sequence[int], frequencies: Sequence[int] = range(64)) -> Tensor:
        """Nats for each step at each frequency, `64 len(steps)`, 0 at those that say nothing."""
        asked = torch.isin(self.k, torch.tensor(list(frequencies)))
        k, c, s, w, f = (each[asked] for each in (self.k, self.c, self.s, self.w, self.density))
        nats = torch.zeros(len(steps), 64)
        for row, q in zip(nats, steps, strict=True):
            n = (c / q).round()
            high = self.above[k, ((2 * n + 1) * q).long().clamp_max(self.above.shape[1] - 1)]
            low = self.above[k, ((2 * n - 1) * q).abs().long().clamp_max(self.above.shape[1] - 1)]
            mass = (torch.where(n == 0, high + low, high - low)).clamp_min(0) / 2  # P_q(n)
            tooth = student((c - q * n) / s)
            for shift in (-q, q) if q < 8 else ():
                tooth = tooth + student((c - q * n + shift) / s)
            row.index_add_(0, k, w * ((1 - OUTLIERS) * 0.375 * mass * tooth / (s * f) + OUTLIERS).log())
        return nats.mT * self.loud[:, None]

    def score(self) -> float:
        """Evidence for any comb in the lowest frequencies."""
        low = [8 * i + j for i in range(3) for j in range(3 - i)]
        return self.evidence(range(2, 121), low).amax(1).clamp_min(0).sum().item()

    def table(self, base: tuple[tuple[int, ...], ...], quality: int | None = None) -> tuple[Tensor, int, bool, float]:
        """The most likely table `8 8`, its quality, whether it is libjpeg's, and its evidence less its own length.

        Args:
            quality: one that is likely, since the other table has it.
        """
        nats = self.evidence(range(1, STEPS + 1))
        known = torch.stack([quantisation_table(base, q).long().flatten() for q in range(1, 101)])
        best, step = nats.max(1)
        telling = [k for k in range(64) if k not in ALIKE]
        each, total = nats.gather(1, known.mT - 1)[telling].sum(0), best[telling].sum()
        if quality is not None:
            each[quality - 1] += FREE / 2
        standard = int(each.argmax()) + 1
        if each[standard - 1] - KNOWN >= total - max(FREE, TOLERANCE * total):
            return known[standard - 1].reshape(8, 8), standard, True, (each[standard - 1] - KNOWN).item()
        # entries that speak, and for the others the shape of libjpeg's table
        speaks = best - nats.median(1).values > 8
        shape = known[49].double()
        ratio = ((step + 1) / shape)[speaks].median() if speaks.any() else torch.tensor(1.0)
        filled = (shape * ratio).round().long().clamp(1, STEPS)
        table = torch.where(speaks, step + 1, filled)
        near = int((known.double().clamp_min(1).log() - table.double().log()).square().sum(1).argmin()) + 1
        return table.reshape(8, 8), near, False, (total - FREE).item()


def student(x: Tensor) -> Tensor:
    """Student's law with four degrees of freedom, but for its 3 / 8."""
    return (1 + x.square() / 4) ** -2.5
