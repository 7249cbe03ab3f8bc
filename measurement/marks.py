"""What is thin or small in a picture: its marks, and what they look like. `scratches.py` says which are damage."""

from __future__ import annotations

import math
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
#: how far the colour of a paint reaches at least, image units: a step of 8 bits and a half
EXACT = 0.006


class Marks(NamedTuple):
    """The light or the dark marks of a picture.

    Args:
        label: `H W`, which mark each pixel belongs to; -1 for none.
        area: `n`, pixels of each mark.
        features: `n 10`, in the order of `scratches.WEIGHTS`; `n 16` where a paint was known.
    """

    label: Tensor
    area: Tensor
    features: Tensor

    def spread(self, values: Tensor) -> Tensor:
        """The value of its mark at each pixel, 0 where there is none, `H W`."""
        return torch.cat([values, values.new_zeros(1)])[self.label]  # -1 is the last one


def largest(x: Tensor, side: int) -> Tensor:
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
    return (x - largest(-largest(-x, side), side)).mean((0, 1))


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


class Paint(NamedTuple):
    """The colour of what lies on a picture.

    Args:
        odds: `H W`, log odds that a pixel belongs to it, from the last look.
        vote: `H W`, its part in the root of its mark's area where these are positive, elsewhere 0.
        inside: `H W`, bool, pixels of this colour.
        reach: `H W`, bool, and those that can be taken for it beside them.
        width: how far the colour reaches, image units.
    """

    odds: Tensor
    vote: Tensor
    inside: Tensor
    reach: Tensor
    width: float

    @classmethod
    def of(cls, image: Tensor, marks: Marks, odds: Tensor) -> Paint | None:
        """The colour of most marks that are more likely damage than not; None where there are none."""
        odds, vote = marks.spread(odds), marks.spread(marks.area.rsqrt())
        pixels, votes = image[0][:, odds > 0], vote[odds > 0]
        if not len(votes):
            return None
        bins = _bins(pixels)
        near = bins == bins[_alike(bins, votes)[bins].argmax()]
        off = lambda colour: (image[0] - colour[:, None, None]).abs().amax(0)  # noqa: E731
        near = off(pixels[:, near].median(1).values)[odds > 0] < 1.5 / BINS
        away = off(pixels[:, near].median(1).values)
        width = max(EXACT, 3 * away[odds > 0][near].median().item())
        inside = away < width
        beside = largest(inside[None, None].float(), 3)[0, 0] > 0
        return cls(odds, vote * (odds > 0), inside, inside | (beside & (away < 2.5 * width)), width)


class Layer:
    """What is thin or small and lighter than around; of 1 - image, what is darker.

    Args:
        image: `1 3 H W` in [0, 1].
    """

    def __init__(self, image: Tensor):
        self.image = image
        self.hat = _top_hat(image, SIDE)
        self.chosen = self.hat > CONTRAST
        self.contrast, self.pixels = self.hat[self.chosen], image[0][:, self.chosen]
        self.thin = _top_hat(image, 5)[self.chosen]
        self.every = _alike(_bins(image[0].flatten(1)), torch.ones(self.hat.numel()))
        self.grain = _grain(image)

    def marks(self, paint: Paint | None = None) -> Marks:
        """The marks; where a paint is known, what has its colour and what has not are two."""
        chosen, pixels, contrast = self.chosen, self.pixels, self.contrast
        number = torch.full(chosen.shape, -1)
        number[chosen] = torch.arange(len(contrast))
        painted = torch.zeros(len(contrast), dtype=torch.bool) if paint is None else paint.reach[chosen]
        links = []
        for a, b in _neighbours(number, ((0, 1), (1, 0), (1, 1), (1, -1))):
            both = (a >= 0) & (b >= 0)
            a, b = a[both], b[both]
            step = (pixels[:, a] - pixels[:, b]).abs().amax(0)
            near = step < (ALIKE * torch.minimum(contrast[a], contrast[b])).clamp_min(STEP)
            near = torch.where(painted[a] | painted[b], painted[a] & painted[b], near)
            links.append((a[near], b[near], step[near]))
        first, second, step = (torch.cat(each) for each in zip(*links, strict=True))
        root = _joined(len(contrast), first, second)
        count = torch.zeros(len(root)).index_add_(0, root[first], torch.ones(len(first)))
        kept = (count[root] > 1) | painted  # otherwise single pixels and pairs say too little
        label = torch.full((len(root),), -1)
        roots, label[kept] = torch.unique(root[kept], return_inverse=True)
        number[chosen] = label

        n, member = len(roots), label[kept]
        total = lambda place, value: torch.zeros(n).index_add_(0, place, value)  # noqa: E731
        area = total(member, torch.ones(len(member)))
        mean = lambda value: total(member, value[kept]) / area  # noqa: E731
        depth, colour = mean(contrast), torch.stack([mean(each) for each in pixels])
        inside = label[first] >= 0
        uneven = total(label[first][inside], step[inside]) / count[roots].clamp_min(1)
        brightness, rim, sharp, jump = self.image[0].mean(0), *torch.zeros(3, n)
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
        marked, every = _alike(bins, area)[bins], self.every[bins]
        features = [
            depth.log(),
            (uneven + 0.002).log(),
            sharp / rim.clamp_min(1),
            jump / rim.clamp_min(1),
            ((1 - colour.amin(0)).clamp_min(0) + 0.01).log(),
            mean(self.thin) / depth,
            torch.full((n,), self.grain + 0.002).log(),
            ((every - marked).clamp_min(0) + 1).log(),
            ((marked - area).clamp_min(0) + 1).log(),
            area.log(),
        ]
        if paint is not None:
            vote, same, odds = paint.vote[chosen], paint.inside[chosen], paint.odds[chosen]
            of_others = lambda votes: 1 + (votes.sum() - total(member, votes[kept])).clamp_min(0)  # noqa: E731
            beside = (paint.inside & (paint.odds <= 0)).sum() - total(member, (same & (odds <= 0))[kept].float())
            share = mean(same.float())
            features += [
                share,
                share * (of_others(vote * same) / of_others(vote)).log(),
                share * ((beside + 1) / chosen.numel()).log(),
                share * math.log(paint.width),
                (1 - share) * (of_others(vote * ~same) / of_others(vote)).log(),
                mean(odds.clamp(-6, 6)),
            ]
        return Marks(number, area, torch.stack(features, 1))
