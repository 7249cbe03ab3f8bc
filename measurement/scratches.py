"""Scratches, lettering and dust: a mask of what lies on a picture and is not of it.

What is thin or small is what an opening or closing by a square takes away: the top-hats x - opening(x) and
closing(x) - x (Serra 1982). Neighbours in them whose colours differ by much less than their contrast belong together,
and each such mark is judged as a whole. Paint, scratches and dust replace the picture: inside they have one colour, as
even as the picture's grain allows; at their rim the whole contrast lies in one pixel; they are whiter or blacker
than the picture, and few other things have their colour. With these numbers as features f, on a logarithmic scale,

    log odds that a mark is damage = b + sum_i w_i f_i

What was found has told the colour of the paint, and how exactly, so that the picture is looked at again. What has that
colour is now a mark of its own, be it a single pixel, and ends where the colour ends; how many of the other marks have
it, and how much of the picture beside them, are features too, with other b and w_i.

The weights are fitted by `priors/train_scratches.py` on training photographs, clean or under strokes, words and
specks, some of them grey, noisy, blurred or JPEG. The evidence that a picture is damaged at all is, at the first look,

    sum over marks of sqrt(area) max(log odds - 1, 0)

(a mark's pixels are not independent, hence the root).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .marks import Layer, Marks, Paint, largest

#: part of a mark's contrast that a soft rim beside it has at least, and the "sharp rim" of the first look, mean over
#: the roots of areas, below which rims are soft: soft letters count beside a hard scratch as large as all of them
RIM, HARD = 0.15, 0.6
#: times a picture is looked at
LOOKS = 3
#: what the log odds gain from sensitivity 1/2 to 1
RANGE = 4.0
#: evidence above which a picture is damaged
DAMAGED = 100.0
#: the features, and what each adds to the log odds: at the first look, and once a paint is known
WEIGHTS = {
    "contrast": (1.94, 0.60),
    "unevenness": (-2.35, -0.33),
    "sharp rim": (6.87, 4.38),
    "jump at the rim": (-5.92, -3.99),
    "distance from black or white": (-1.44, -0.23),
    "thinness": (6.19, 3.36),
    "grain of the picture": (0.72, -0.01),
    "this colour in no mark": (-0.27, -0.12),
    "this colour in other marks": (-0.39, -0.23),
    "area": (0.55, 0.30),
    "in the paint's colour": (0.0, 0.39),
    "other marks in it": (0.0, 1.75),
    "no mark in it": (0.0, -0.23),
    "its width": (0.0, -0.36),
    "other marks in other colours": (0.0, 0.79),
    "odds before": (0.0, 0.42),
}
BIAS = (-10.57, -3.61)


def log_odds(marks: Marks, weights: Tensor | None = None) -> Tensor:
    """That each mark is damage.

    Args:
        weights: `17 2`, `WEIGHTS` and `BIAS`.
    """
    weights = torch.tensor([*WEIGHTS.values(), BIAS]) if weights is None else weights
    n = marks.features.shape[1]
    column = weights[:, int(n == len(WEIGHTS))]
    return marks.features @ column[:n] + column[-1]


def damage_marks(image: Tensor, sensitivity: float = 0.5) -> tuple[Tensor, float]:
    """A mask, `1 1 H W`, 1 where a thin or small thing does not belong, and the evidence that there is any (`DAMAGED`).

    Args:
        image: `1 C H W` in [0, 1].
        sensitivity: 0 finds the plainest only, 1 nearly everything thin.
    """
    image = image[:, :3].expand(-1, 3, -1, -1).clamp(0, 1)
    found, rims = torch.zeros(2, *image.shape[-2:], dtype=torch.bool)
    evidence = count = sharp = 0.0
    for x in (image, 1 - image):
        layer, paint = Layer(x), None
        for look in range(LOOKS):
            marks = layer.marks(paint)
            odds = log_odds(marks) + 2 * RANGE * (sensitivity - 0.5)
            if look == 0:
                votes, rim = marks.area.sqrt(), marks.features[:, list(WEIGHTS).index("sharp rim")]
                evidence += (votes * (odds - 1).clamp_min(0)).sum().item()
                count, sharp = count + votes[odds > 0].sum().item(), sharp + (votes * rim)[odds > 0].sum().item()
            paint = Paint.of(x, marks, odds)
            if paint is None:
                break
        sure = marks.spread(odds) > 0
        reach = largest((sure * layer.hat)[None, None], 3)[0, 0]
        found |= sure
        rims |= (layer.hat > RIM * reach) & (reach > 0)
    if sharp < HARD * count:  # soft rims; at hard ones they would be the picture's own
        found = found | rims
    return found[None, None].float(), evidence


def scratches(image: Tensor, sensitivity: float = 0.5) -> Tensor:
    """The mask of `damage_marks`."""
    return damage_marks(image, sensitivity)[0]
