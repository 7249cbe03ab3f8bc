"""How a picture was blurred, from the picture alone: not, by a Gaussian, out of focus, or by a straight movement.

A blur takes from the spectrum what its kernel says: a Gaussian a slope, a disk rings of zeros, a movement parallel
lines of zeros. The evidence for each kernel is that of `spectrum`, where what a sharp photograph might have had is
fitted along; a grid finds the kind, a pattern search (Hooke and Jeeves 1961, https://doi.org/10.1145/321062.321069) the
parameters, and

    p(kind given y) ~ p(kind) exp(evidence / T)

with T in proportion to the best evidence's size, as what departs further from the model tells less. A photo that its
lens left as soft as a Gaussian of 0.85 pixels cannot be told from one that such a blur softened: no blur is whatever
undamaged training photographs look like. Some look as if they had moved: a rope before the sky has its spectrum along
one line. But such a spectrum has no zeros, so that no blur may also have the power of a movement whose zeros are
filled, its mean over lengths from a half to twice. The kernels are those of the blur nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..algebra.refusal import Refusal
from ..operators.base import Operator
from ..operators.convolution import convolution
from ..operators.identity import Identity
from ..operators.jpeg import LUMA, rounding
from ..operators.kernels import disk, gaussian, motion
from .jpeg_noise import rounded_power
from .jpeg_tables import Compression, compression
from .noise import ROUNDING
from .noise_level import noise_level
from .seen_noise import blur_in
from .spectrum import Spectrum, smeared

#: the kinds: no blur is a Gaussian as narrow as a lens or a change of size leaves it
KINDS = ("none", "gaussian", "defocus", "motion")
KERNELS: dict[str, Callable[..., Tensor]] = dict(zip(KINDS, (gaussian, gaussian, disk, motion), strict=True))
#: first parameter of each kind, pixels: from, to (on blocks of 128 pixels), and the factor between two of a grid. Of 80
#: undamaged training photographs two look softer than a Gaussian of 0.9 pixels, which softens as a disk of 1.8 does
GRID = {
    "none": (0.2, 0.85, 1.3), "gaussian": (1.0, 8.0, 1.2), "defocus": (1.8, 16.0, 1.1), "motion": (3.0, 50.0, 1.11),
}  # fmt: skip
#: pixels by which the ends of two movements of a grid are apart
ACROSS = 1.6
#: how many of the best points of the grid are looked at more closely
STARTS = 3
#: T over the size of the best evidence
TEMPERATURE = 0.005
#: log p(kind), but for a constant: of movements there are so many that one of them fits a sharp photo by chance
LOG_ODDS = (0.0, 0.75, 0.25, -2.0)
#: logs of the lengths, over that of the movement, whose powers are taken where the zeros are filled; how many together
FILLED, TOGETHER = np.linspace(-1.2, 1.2, 25), 15
#: deviations of the noise, and part of the neighbours, by which steps may be larger than a kernel leaves any
NOISY, FEW = 5.0, 1e-3
#: largest side of a block; smallest side of a picture
BLOCK, SMALLEST = 128, 64


@dataclass(frozen=True)
class BlurEstimate:
    """What was found.

    Args:
        kind: one of `KINDS`.
        parameters: sigma; radius; or length and angle: pixels, and degrees anticlockwise from horizontal, 0 to 180.
            None where there is no blur.
        confidence: probability of the kind, 0 to 1.
        probabilities: of all kinds.
        noise: sigma of the noise, image units; where there is no blur no more than a bound.
        lines: nats by which what lies one way in the picture explains it better than no blur does alone; 0 for none.
    """

    kind: str
    parameters: tuple[float, ...]
    confidence: float
    probabilities: dict[str, float]
    noise: float
    lines: float = 0.0

    @property
    def operator(self) -> Operator | None:
        """The blur, with mirrored borders; None where there is none."""
        return None if self.kind == "none" else convolution(KERNELS[self.kind](*self.parameters))

    def __str__(self) -> str:
        what = {
            "none": "no blur", "gaussian": "Gaussian blur, sigma {:.2f} pixels",
            "defocus": "out of focus, a disk of radius {:.2f} pixels",
            "motion": "motion blur, {:.1f} pixels at {:.0f} degrees",
        }[self.kind].format(*self.parameters)  # fmt: skip
        return f"{what} (confidence {100 * self.confidence:.0f} %)"


def estimate_blur(picture: Tensor, jpegs: Sequence[Compression | None] | None = None) -> BlurEstimate:
    """The blur of a picture, or of several that were blurred alike.

    Args:
        picture: `B C H W` in [0, 1], at least 64 x 64, of whole pixels as they were recorded, not resized since.
        jpegs: how each was compressed, None where it was not; without them that is looked for.

    Raises:
        Refusal: when a side is shorter.
    """
    _require(picture)
    if jpegs is None:
        jpegs = [compression(each[None, : 3 if len(each) >= 3 else 1]) for each in picture]
    spectra = _spectra(picture, jpegs)
    side = spectra[0].side
    thetas, powers = _grid(side)
    rough = torch.cat([_evidence(spectra, part, every=3, rounds=5) for part in powers.split(100)])
    found = {}
    for kind in KINDS:
        own = [index for index, (name, _) in enumerate(thetas) if name == kind]
        starts = [thetas[own[index]][1] for index in rough[own].topk(min(STARTS, len(own))).indices.tolist()]
        found[kind] = _refined(spectra, kind, starts)
        if kind != "none" and not _possible(picture, jpegs, KERNELS[kind](*found[kind][1])):
            found[kind] = -math.inf, found[kind][1]
    evidence = torch.tensor([found[kind][0] for kind in KINDS])
    lines = max(0.0, _evidence(spectra, _filled(side, *found["motion"][1])).max().item() - found["none"][0])
    evidence[0] += lines
    logits = evidence / (TEMPERATURE * evidence.max().abs().clamp_min(1.0)) + torch.tensor(LOG_ODDS)
    probabilities = dict(zip(KINDS, logits.softmax(0).tolist(), strict=True))
    kind = max(KINDS, key=probabilities.__getitem__)
    theta = found[kind][1]
    power = smeared([KERNELS[kind](*theta)], side)
    noise = float(np.mean([spectrum.fit(power).noise.item() for spectrum in spectra]))
    if kind == "motion":
        theta = (theta[0], theta[1] % 180)
    return BlurEstimate(kind, () if kind == "none" else theta, probabilities[kind], probabilities, noise, lines)


def _possible(picture: Tensor, jpegs: Sequence[Compression | None], kernel: Tensor) -> bool:
    """Whether a blur k leaves steps between neighbours as large as those of the picture, and whether there are any.

    In [0, 1] none is larger than norm(k - k moved by a pixel)_1 / 2, but for the noise and what JPEG rounds. This tells
    drawings and print, whose spectra are not those of photographs, from what is blurred.
    """
    lost = max(rounding(jpeg.operator().luminance, LUMA).item() if jpeg else 0.0 for jpeg in jpegs)
    noise = NOISY * (2 * (noise_level(picture).max().item() ** 2 + lost)) ** 0.5
    grey = picture.mean(1)
    for dim in (-2, -1):
        border = [1, 1, 0, 0] if dim == -1 else [0, 0, 1, 1]
        bound = F.pad(kernel, border).diff(dim=dim).abs().sum() / 2
        if (grey.diff(dim=dim).abs() > bound + noise).double().mean() > FEW:
            return False
    return picture.flatten(1).std(1).max().item() > ROUNDING


def log_likelihood(picture: Tensor, operator: Operator) -> float:
    """Evidence that a picture was blurred by this operator, nats; to be compared among operators on one picture.

    Args:
        picture: as in `estimate_blur`.
        operator: a blur, or the identity.

    Raises:
        Refusal: for small pictures, and for operators that are no blur.
    """
    spectra, blur = _spectra(picture), blur_in(operator)
    if blur is None and not isinstance(operator, Identity) or blur is not None and blur.kernel.shape[:2] != (1, 1):
        raise Refusal(f"{operator.label} is no blur that is the same in all colours; give one of the blur nodes.")
    kernel = torch.ones(1, 1, 1, 1) if blur is None else blur.kernel
    return _evidence(spectra, smeared([kernel], spectra[0].side)).item()


def likeliest(picture: Tensor, kind: str, told: tuple[float, ...], guess: bool) -> tuple[tuple[float, ...], float]:
    """The parameters of a kind that explain a picture best, and by how many nats they do so better than the told ones.

    Args:
        picture, kind: as in `BlurEstimate`.
        told: parameters, laid out as there.
        guess: whether they are no more than that; otherwise no others are looked for if those of a grid are no better.

    Raises:
        Refusal: for small pictures.
    """
    spectra = _spectra(picture)
    thetas, powers = _grid(spectra[0].side)
    kinds = ("none", kind) if kind == "gaussian" else (kind,)  # a weak one is one all the same, where it was told
    own = [index for index, (name, _) in enumerate(thetas) if name in kinds]
    rough = torch.cat([_evidence(spectra, part, every=3, rounds=5) for part in powers[own].split(100)])
    if not guess and rough.max() <= _best(spectra, kind, [told], 3)[0]:
        return told, 0.0
    starts = [thetas[own[index]][1] for index in rough.topk(min(STARTS, len(own))).indices.tolist()]
    value, theta = _refined(spectra, kind, starts, GRID[kinds[0]][0])
    as_told, _ = _best(spectra, kind, [told])
    return (theta, value - as_told) if value > as_told else (told, 0.0)


def _require(picture: Tensor) -> None:
    if min(picture.shape[-2:]) < SMALLEST:
        raise Refusal(
            f"The picture is {picture.shape[-1]} x {picture.shape[-2]}; reading its blur takes at least {SMALLEST} x "
            f"{SMALLEST} pixels."
        )


def _spectra(picture: Tensor, jpegs: Sequence[Compression | None] | None = None) -> list[Spectrum]:
    _require(picture)
    side = BLOCK if min(picture.shape[-2:]) >= BLOCK else SMALLEST
    each = zip(picture, jpegs or [None] * len(picture), strict=True)
    return [Spectrum(one, side, jpeg and rounded_power(one[None], jpeg, side)) for one, jpeg in each]


def _evidence(spectra: Sequence[Spectrum], powers: Tensor, every: int = 1, rounds: int = 8) -> Tensor:
    """Of each kernel, all pictures together, `K`."""
    return torch.stack([spectrum.fit(powers, every, rounds).log_likelihood for spectrum in spectra]).sum(0)


@lru_cache(2)
def _grid(side: int) -> tuple[list[tuple[str, tuple[float, ...]]], Tensor]:
    """Kinds with parameters, and their smeared powers, `K F`."""
    thetas = []
    for kind, (first, last, factor) in GRID.items():
        last = last if kind == "none" else last * side / BLOCK
        for size in np.geomspace(first, last, round(math.log(last / first, factor)) + 1).tolist():
            count = max(6, round(math.pi * size / (2 * ACROSS))) if kind == "motion" else 1
            for turn in range(count):
                thetas.append((kind, (size, 180 * turn / count) if kind == "motion" else (size,)))
    parts = [thetas[first : first + 64] for first in range(0, len(thetas), 64)]
    return thetas, torch.cat([smeared([KERNELS[kind](*theta) for kind, theta in part], side) for part in parts])


def _filled(side: int, length: float, angle: float) -> Tensor:
    """Powers of movements whose zeros are filled, `K F`."""
    powers = smeared([motion(each, angle) for each in (length * np.exp(FILLED)).tolist()], side)
    return powers.unfold(0, TOGETHER, 1).mean(-1)


def _best(
    spectra: Sequence[Spectrum], kind: str, trials: Sequence[tuple[float, ...]], every: int = 1
) -> tuple[float, tuple[float, ...]]:
    """The highest evidence among parameters, and which have it."""
    powers = smeared([KERNELS[kind](*trial) for trial in trials], spectra[0].side)
    return max(zip(_evidence(spectra, powers, every, 5 if every > 1 else 8).tolist(), trials, strict=True))


def _refined(
    spectra: Sequence[Spectrum], kind: str, starts: list[tuple[float, ...]], first: float | None = None
) -> tuple[float, tuple[float, ...]]:
    """Evidence and parameters of the best kernel near one of the starts; first: other than that of `GRID`."""
    start, last, factor = GRID[kind]
    first = start if first is None else first
    last = last * spectra[0].side / BLOCK
    if kind == "motion":  # the lengths have many hills, for each number of zeros one
        lines = []
        for length, angle in starts:
            lengths = np.geomspace(max(first, length / 2.2), min(last, length * 2.2), 40).tolist()
            _, (length, angle) = _best(spectra, kind, [(each, angle) for each in lengths], 3)
            turns = math.degrees(ACROSS / length) * np.linspace(-1, 1, 13)
            lines.append(_best(spectra, kind, [(length, angle + turn) for turn in turns.tolist()], 3))
        _, theta = max(lines)
    else:
        _, theta = _best(spectra, kind, starts)
    grow, turn = factor**0.5, math.degrees(ACROSS / theta[0]) / 4
    for _ in range(4):
        sizes = [min(max(theta[0] * by, first), last) for by in (1 / grow, 1.0, grow)]
        angles = [(theta[1] + by,) for by in (-turn, 0.0, turn)] if kind == "motion" else [()]
        value, theta = _best(spectra, kind, [(size, *angle) for size in sizes for angle in angles])
        grow, turn = grow**0.5, turn / 2
    return value, theta
