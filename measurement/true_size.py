"""Whether a picture was made larger, from what size, and by which filter.

A line of n pixels that was enlarged from m is y = U x + rounding, with U (n by m) one of five filters. So y is in the
range of U but for the rounding; what lies outside, per dimension,

    r(m) = |y - U U^+ y|^2 / (n - m)

falls at the true m, and only there, since at m +- 4 the phases of the filter do not fit; a picture that is soft for
other reasons fits all m about as well. Evidence is log r of the neighbours less log r(m), the mean of both directions
(an exact form of the periodic traces of Gallagher 2005, https://doi.org/10.1109/CRV.2005.33, and Mahdian and Saic 2008,
https://doi.org/10.1109/TIFS.2004.924603). All m / n are tried on a short piece, then m on longer ones. U^+ y is the
small picture itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from ..operators.downscale import FILTERS, Resize
from .jpeg_tables import compression


def _keys(a: float) -> Callable[[Tensor], Tensor]:
    """Keys' cubic, https://doi.org/10.1109/TASSP.1981.1163711."""

    def cubic(x: Tensor) -> Tensor:
        x = x.abs()
        near, far = ((a + 2) * x - (a + 3)) * x**2 + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))

    return cubic


#: name to (filter, support), in pixels of the small picture; two bicubics are in use, of a = -1/2 and of a = -3/4
ENLARGEMENTS = {
    "nearest": (lambda x: ((x > -0.5) & (x <= 0.5)).double(), 0.5),
    "bilinear": (lambda x: (1 - x.abs()).clamp_min(0), 1.0),
    "bicubic": (_keys(-0.5), 2.0),
    "bicubic (a = -3/4)": (_keys(-0.75), 2.0),
    "lanczos": FILTERS["lanczos"],
}
#: m / n that are tried: from a factor of 5 to one of 1.2
RATIOS = np.arange(51, 214) / 256
#: pixels of the piece for all of them, of the longest piece; number of lines
PIECE, LONGEST, LINES = 128, 512, 64
#: evidence above which a picture counts as enlarged, nats; and in JPEG below this quality for eighths of it, as blocks
#: that lost their upper frequencies have no more dimensions than an enlargement
ENOUGH, ENOUGH_IN_JPEG, STRONG = 1.0, 3.0, 80
#: smallest side of a picture
SMALLEST = 64


@dataclass(frozen=True)
class TrueSize:
    """What was found.

    Args:
        size: (h, w) of the small picture.
        large: (H, W) of what was given.
        kernel: one of `ENLARGEMENTS`.
        evidence: nats, for each line and dimension.
    """

    size: tuple[int, int]
    large: tuple[int, int]
    kernel: str
    evidence: float

    @property
    def factor(self) -> float:
        return (self.large[0] * self.large[1] / (self.size[0] * self.size[1])) ** 0.5

    @property
    def operator(self) -> Enlarged:
        """From a picture of the large size to the small one."""
        return Enlarged(self.large, self.size, self)

    def __str__(self) -> str:
        (h, w), (rows, columns) = self.size, self.large
        return f"enlarged {self.factor:.2f} times, from {w} x {h} to {columns} x {rows} pixels ({self.kernel})"

    def small(self, picture: Tensor) -> Tensor:
        """The picture before it was enlarged, by least squares, `B C h w` in [0, 1]."""
        return self._along(picture, lambda u: torch.linalg.pinv(u)).clamp(0, 1)

    def enlarge(self, small: Tensor) -> Tensor:
        """The picture after it was enlarged."""
        return self._along(small, lambda u: u)

    def _along(self, picture: Tensor, made: Callable[[Tensor], Tensor]) -> Tensor:
        for dim, (n, m) in enumerate(zip(self.large, self.size, strict=True), -2):
            matrix = made(enlarging(n, m, self.kernel)).to(picture)
            picture = matrix @ picture if dim == -2 else picture @ matrix.mT
        return picture


class Enlarged(Resize):
    """y is the small picture of which a given one was made: U^+ times that, so that only its own pixels are known.

    It takes a picture of either size.

    Args:
        found: how it was enlarged.
    """

    def __init__(self, large: tuple[int, int], small: tuple[int, int], found: TrueSize):
        super().__init__(large, small)
        self.found = found

    def read(self, image: Tensor) -> Tensor:
        return self.found.small(image) if tuple(image.shape[-2:]) == self.large else image

    def picture(self, y: Tensor) -> Tensor:
        return self.found.enlarge(y)


def true_size(picture: Tensor) -> TrueSize | None:
    """The size that a picture had before it was enlarged by the same factor in both directions, or None.

    Args:
        picture: `1 C H W` in [0, 1], at least 64 x 64, whole: not cut, turned or resized since.

    Raises:
        Refusal: when a side is shorter.
    """
    if min(picture.shape[-2:]) < SMALLEST:
        raise Refusal(
            f"The picture is {picture.shape[-1]} x {picture.shape[-2]}; finding its true size takes at least "
            f"{SMALLEST} x {SMALLEST} pixels."
        )
    lines = [_lines(picture[0], dim) for dim in (-2, -1)]
    best, highest = None, ENOUGH
    for kernel in ENLARGEMENTS:
        curve = sum(_nearby(torch.tensor([_outside(y, len(y) * r, kernel, PIECE) for r in RATIOS])) for y in lines) / 2
        around = torch.stack([curve.roll(shift) for shift in (-7, -6, -5, 5, 6, 7)]).median(0).values
        evidence = (around - curve)[7:-7]
        if evidence.max() > highest:
            highest = evidence.max().item()
            best = kernel, RATIOS[7 + int(evidence.argmax())]
    if best is None:
        return None
    kernel, ratio = best
    if abs(8 * ratio - round(8 * ratio)) < 0.1 and highest < ENOUGH_IN_JPEG:
        jpeg = compression(picture)
        if jpeg is not None and jpeg.quality < STRONG:
            return None
    size = tuple(_exact(y, ratio, kernel) for y in lines)
    return TrueSize(size, tuple(picture.shape[-2:]), kernel, highest)


def enlarging(n: int, m: float, kernel: str, first: int | None = None) -> Tensor:
    """U, `n m` float64; of the first rows alone with the columns that they see, where m need not be whole."""
    function, support = ENLARGEMENTS[kernel]
    rows = n if first is None else first
    centre = (torch.arange(rows, dtype=torch.float64)[:, None] + 0.5) * (m / n)
    pixel = torch.arange(min(math.ceil(m), math.ceil(centre[-1].item() + support) + 1), dtype=torch.float64)
    weight = function(pixel + 0.5 - centre) * ((pixel + 0.5 - centre).abs() <= support)
    weight = weight / weight.sum(1, keepdim=True)
    return weight if first is None else weight[:, weight.abs().amax(0) > 0]


def _lines(picture: Tensor, dim: int) -> Tensor:
    """The liveliest lines in one direction, each from the livelier of its ends, `n k` in levels."""
    y = 255 * picture.double().movedim(dim, 0).flatten(1)
    change = y.diff(dim=0).square()
    half = min(PIECE, len(y))
    if change[-half:].sum() > change[:half].sum():
        y = y.flip(0)
    lively = y[:half].diff(dim=0).square().sum(0).topk(min(LINES, y.shape[1])).indices
    return y[:, lively]


def _nearby(curve: Tensor) -> Tensor:
    """The least of neighbours, as whole sizes may have slightly other factors in each direction."""
    return -torch.nn.functional.max_pool1d(-curve[None], 3, 1, 1)[0]


def _outside(y: Tensor, m: float, kernel: str, piece: int) -> float:
    """log r of the first so many pixels."""
    u = enlarging(len(y), m, kernel, min(piece, len(y)))
    y = y[: len(u)]
    factor = torch.linalg.cholesky(u.mT @ u + 1e-9 * torch.eye(u.shape[1], dtype=u.dtype))
    inside = torch.linalg.solve_triangular(factor, u.mT @ y, upper=False)
    rest = (y.square().sum() - inside.square().sum()) / ((len(u) - u.shape[1]) * y.shape[1])
    return (rest.clamp_min(0) + 0.01).log().item()  # a level has 1 / 12


def _exact(y: Tensor, ratio: float, kernel: str) -> int:
    """m, on pieces that get longer."""
    n, piece = len(y), PIECE
    reach = n / 128
    while True:
        low, high = math.floor(n * ratio - reach), math.ceil(n * ratio + reach)
        tried = sorted(set(np.linspace(low, high, min(high - low + 1, 11)).round().astype(int).tolist()))
        m = min(tried, key=lambda each: _outside(y, each, kernel, piece))
        if piece >= min(n, LONGEST):
            return m
        ratio, piece, reach = m / n, 2 * piece, max(1.0, reach / 2)
