"""Scratches, lettering and dust: a mask of what lies on a picture and is not of it.

What is thin or small is what an opening or closing by a square takes away: the top-hats x - opening(x) and
closing(x) - x (Serra 1982). Neighbours in them whose colours differ by much less than their contrast belong together,
and each such mark is judged as a whole. Paint, scratches and dust replace the picture: inside they have one colour, as
even as the picture's grain allows; at their rim the whole contrast lies in one pixel; they are whiter or blacker
than the picture, and few other things have their colour. With these numbers as features f, on a logarithmic scale,

    log odds that a mark is damage = b + sum_i w_i f_i

whose weights are fitted by `priors/train_scratches.py` on training photographs, clean or under strokes, words and
specks, some of them grey, noisy, blurred or JPEG. The evidence that a picture is damaged at all is

    sum over marks of sqrt(area) max(log odds - 1, 0)

(a mark's pixels are not independent, hence the root).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: pixels; what is wider is not looked for
SIDE = 13
#: least contrast of a pixel of a mark, image units
CONTRAST = 0.06
#: neighbours of one mark differ by at most this part of their contrast, and by this much
ALIKE, STEP = 0.12, 0.012
#: bins of a colour's histogram along an axis
BINS = 24
#: part of a mark's contrast that a soft rim beside it has at least, and the "sharp rim" below which rims are soft: 0.58
#: to 1 in most training pictures under hard paint, 0.24 to 0.52 under soft
RIM, HARD = 0.4, 0.55
#: what the log odds gain from sensitivity 1/2 to 1
RANGE = 4.0
#: evidence above which a picture is damaged
DAMAGED = 100.0
#: the features, and what each adds to the log odds
WEIGHTS = {
    "contrast": 1.94,
    "unevenness": -2.35,
    "sharp rim": 6.87,
    "jump at the rim": -5.92,
    "distance from black or white": -1.44,
    "thinness": 6.19,
    "grain of the picture": 0.72,
    "this colour in no mark": -0.27,
    "this colour in other marks": -0.39,
    "area": 0.55,
}
BIAS = -10.57


class Marks(NamedTuple):
    """The light or the dark marks of a picture.

    Args:
        label: `H W`, which mark each pixel belongs to; -1 for none.
        hat: `H W`, contrast to what is around.
        area: `n`, pixels of each mark.
        features: `n 10`, in the order of `WEIGHTS`.
    """

    label: Tensor
    hat: Tensor
    area: Tensor
    features: Tensor

    def log_odds(self) -> Tensor:
        return self.features @ self.features.new_tensor(list(WEIGHTS.values())) + BIAS


def _largest(x: Tensor, side: int) -> Tensor:
    """The largest of a square, by doubling, which is several times as fast as pooling."""
    x, reached = F.pad(x, (side // 2,) * 4, value=-torch.inf), 1
    while reached < side:
        step = min(reached, side - reached)
        x = torch.maximum(x[..., :-step, :], x[..., step:, :])
        x = torch.maximum(x[..., :-step], x[..., step:])
        reached += step
    return x


def _top_hat(x: Tensor, side: int) -> Tensor:
    """x - opening(x), the mean over the colours, `H W`."""
    return (x - _largest(-_largest(-x, side), side)).mean((0, 1))


def _neighbours(grid: Tensor, steps: tuple[tuple[int, int], ...]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each pixel and the one so many rows and columns on, `... H W`."""
    height, width = grid.shape[-2:]
    for down, right in steps:
        columns = slice(max(0, -right), width - max(0, right)), slice(max(0, right), width - max(0, -right))
        yield grid[..., : height - down, columns[0]], grid[..., down:, columns[1]]


def _joined(count: int, first: Tensor, second: Tensor) -> Tensor:
    """The least number of all that are linked to each, by hooking and jumping (Shiloach and Vishkin 1982)."""
    root = torch.arange(count)
    while True:
        a, b = root[first], root[second]
        least = torch.minimum(a, b)
        lower = root.clone().scatter_reduce_(0, a, least, "amin").scatter_reduce_(0, b, least, "amin")
        lower = lower[lower]
        if torch.equal(lower, root):
            return root
        root = lower


def _bins(colours: Tensor) -> Tensor:
    """The bin of each colour, `3 n` to `n`."""
    place = (colours * (BINS - 1)).round().long().clamp(0, BINS - 1)
    return (place[0] * BINS + place[1]) * BINS + place[2]


def _alike(bins: Tensor, weight: Tensor) -> Tensor:
    """A histogram of colours, with all the bins that touch each."""
    counts = torch.zeros(BINS**3).index_add_(0, bins, weight).reshape(1, 1, BINS, BINS, BINS)
    return 27 * F.avg_pool3d(F.pad(counts, (1,) * 6), 3, 1).flatten()


def _grain(image: Tensor) -> float:
    """Difference of neighbours that one in ten does not reach, image units."""
    steps = [(a - b).abs().mean(1).flatten() for a, b in _neighbours(image, ((0, 1), (1, 0))) if a.numel()]
    if not steps:  # of a single pixel
        return 0.0
    return torch.stack([step.kthvalue(max(1, len(step) // 10)).values for step in steps]).mean().item()


def light_marks(image: Tensor) -> Marks:
    """What is thin or small and lighter than around; of 1 - image, what is darker.

    Args:
        image: `1 3 H W` in [0, 1].
    """
    hat = _top_hat(image, SIDE)
    chosen = hat > CONTRAST
    pixels, contrast = image[0][:, chosen], hat[chosen]
    number = torch.full(hat.shape, -1)
    number[chosen] = torch.arange(len(contrast))
    links = []
    for a, b in _neighbours(number, ((0, 1), (1, 0), (1, 1), (1, -1))):
        both = (a >= 0) & (b >= 0)
        a, b = a[both], b[both]
        step = (pixels[:, a] - pixels[:, b]).abs().amax(0)
        near = step < (ALIKE * torch.minimum(contrast[a], contrast[b])).clamp_min(STEP)
        links.append((a[near], b[near], step[near]))
    first, second, step = (torch.cat(each) for each in zip(*links, strict=True))
    root = _joined(len(contrast), first, second)
    count = torch.zeros(len(root)).index_add_(0, root[first], torch.ones(len(first)))
    kept = count[root] > 1  # single pixels and pairs say too little
    label = torch.full((len(root),), -1)
    roots, label[kept] = torch.unique(root[kept], return_inverse=True)
    number[chosen] = label

    n, member = len(roots), label[kept]
    total = lambda place, value: torch.zeros(n).index_add_(0, place, value)  # noqa: E731
    area = total(member, torch.ones(len(member)))
    mean = lambda value: total(member, value[kept]) / area  # noqa: E731
    depth, colour = mean(contrast), torch.stack([mean(each) for each in pixels])
    inside = label[first] >= 0
    uneven = total(label[first][inside], step[inside]) / count[roots]
    brightness, rim, sharp, jump = image[0].mean(0), *torch.zeros(3, n)
    both = torch.stack([number.float(), brightness])
    for pair in _neighbours(both, ((0, 1), (1, 0))):
        for (mine, value), (other, beyond) in (pair, pair[::-1]):
            edge = (mine >= 0) & (mine != other)
            place = mine[edge].long()
            drop = (value - beyond)[edge] / depth[place]
            rim += total(place, torch.ones(len(place)))
            sharp += total(place, (drop > 0.6).float())
            jump += total(place, drop.clamp(-1, 1.5))
    bins = _bins(colour)
    marked, every = _alike(bins, area)[bins], _alike(_bins(image[0].flatten(1)), torch.ones(hat.numel()))[bins]
    features = (
        depth.log(),
        (uneven + 0.002).log(),
        sharp / rim.clamp_min(1),
        jump / rim.clamp_min(1),
        ((1 - colour.amin(0)).clamp_min(0) + 0.01).log(),
        mean(_top_hat(image, 5)[chosen]) / depth,
        torch.full((n,), _grain(image) + 0.002).log(),
        ((every - marked).clamp_min(0) + 1).log(),
        ((marked - area).clamp_min(0) + 1).log(),
        area.log(),
    )
    return Marks(number, hat, area, torch.stack(features, 1))


def damage_marks(image: Tensor, sensitivity: float = 0.5) -> tuple[Tensor, float]:
    """A mask, `1 1 H W`, 1 where a thin or small thing does not belong, and the evidence that there is any (`DAMAGED`).

    Args:
        image: `1 C H W` in [0, 1].
        sensitivity: 0 finds the plainest only, 1 nearly everything thin.
    """
    image = image[:, :3].expand(-1, 3, -1, -1).clamp(0, 1)
    found, rims = torch.zeros(2, *image.shape[-2:], dtype=torch.bool)
    evidence = area = sharp = 0.0
    for x in (image, 1 - image):
        marks = light_marks(x)
        odds = marks.log_odds() + 2 * RANGE * (sensitivity - 0.5)
        evidence += (marks.area.sqrt() * (odds - 1).clamp_min(0)).sum().item()
        area += marks.area[odds > 0].sum().item()
        sharp += (marks.area * marks.features[:, list(WEIGHTS).index("sharp rim")])[odds > 0].sum().item()
        sure = torch.cat([odds > 0, odds.new_zeros(1, dtype=torch.bool)])[marks.label]  # -1 is the last one
        reach = _largest((sure * marks.hat)[None, None], 3)[0, 0]
        found |= sure
        rims |= (marks.hat > RIM * reach) & (reach > 0)
    if sharp < HARD * area:  # soft rims; at hard ones they would be the picture's own
        found = found | rims
    return found[None, None].float(), evidence


def scratches(image: Tensor, sensitivity: float = 0.5) -> Tensor:
    """The mask of `damage_marks`."""
    return damage_marks(image, sensitivity)[0]
