"""Fit what tells scratches, lettering and dust from a picture: the weights in `measurement/scratches.py`.

    python tools/package.py posterior.priors.train_scratches      prints the weights and what they reach, three minutes

A logistic regression over the marks of the training photographs (photo_data.py: the middle square at 192 pixels, and of
some at 256 or a crop), each four times: clean, and under strokes, words and specks. What is laid on is of one colour,
mostly near white or black, with hard or soft rims; a quarter of the photographs are grey; half of them are noisy,
blotchy, blurred or JPEG before, and three in ten noisy or JPEG after. Each mark counts as its pixels, up to 150.
Photographs of even number give the weights, the others what they reach; then all give the weights that are kept: of the
first look, and with these, of the looks after it.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from ..measurement.marks import Layer, Marks, Paint
from ..measurement.scratches import WEIGHTS, log_odds
from .photo_data import photos, reduced

KINDS = ("clean", "strokes", "words", "specks")
WORDS = "Summer 1987 Rome Copyright sample draft photo by Anna preview 24.12.1999 garden Hello holiday No 17".split()
#: times a pixel that soft rims are drawn larger
FINE = 4


def pictures() -> Iterator[tuple[int, Image.Image]]:
    """A photograph's number and a square of it."""
    for number, photo in enumerate(photos()):
        image = Image.open(io.BytesIO(photo.data)).convert("RGB")
        if min(image.size) < 250:
            continue
        yield number, ImageOps.fit(image, (192, 192), Image.Resampling.LANCZOS)
        if number % 3 == 0 and min(image.size) > 333:
            yield number, ImageOps.fit(image, (256, 256), Image.Resampling.LANCZOS)
        if number % 3 == 1:
            whole = Image.fromarray(next(reduced(photo.data)))
            if min(whole.size) > 256:
                yield number, whole.crop((0, 0, 256, 256))


def strokes(draw: ImageDraw.ImageDraw, side: int, random: Generator) -> None:
    """Parabolas, 1 to 4.5 pixels thick."""
    scale, t = draw.im.size[0] / side, np.linspace(0, 1, 40)[:, None]
    for _ in range(random.integers(2, 9)):
        a, b = random.uniform(0, side, (2, 2))
        middle = (a + b) / 2 + random.uniform(-30, 30, 2)
        points = scale * ((1 - t) ** 2 * a + 2 * t * (1 - t) * middle + t**2 * b)
        draw.line([tuple(point) for point in points], 255, round(scale * random.uniform(1, 4.5)), "curve")


def words(draw: ImageDraw.ImageDraw, side: int, random: Generator) -> None:
    scale = draw.im.size[0] // side
    for _ in range(random.integers(1, 7)):
        text = " ".join(random.choice(WORDS, random.integers(1, 5)))
        place = random.uniform(-10, 0.6 * side) * scale, random.uniform(0, 0.9 * side) * scale
        draw.text(place, text, 255, ImageFont.load_default(scale * int(random.integers(10, 30))))


def specks(draw: ImageDraw.ImageDraw, side: int, random: Generator) -> None:
    """Disks of radius 0.8 to 3 pixels, and some short fibres."""
    scale = draw.im.size[0] // side
    for _ in range(random.integers(5, 30)):
        x, y = random.uniform(0, side, 2)
        radius, angle, length = random.uniform(0.8, 3), random.uniform(0, 7), random.uniform(3, 9)
        if random.random() < 0.1:
            end = x + length * np.cos(angle), y + length * np.sin(angle)
            draw.line([(scale * x, scale * y), (scale * end[0], scale * end[1])], 255, scale)
        else:
            draw.ellipse([scale * (x - radius), scale * (y - radius), scale * (x + radius), scale * (y + radius)], 255)


def cover(kind: str, side: int, fine: int, random: Generator) -> np.ndarray:
    """How far each pixel is covered, `side side 1`."""
    mask = Image.new("L", (fine * side, fine * side))
    draw = ImageDraw.Draw(mask)
    draw.fontmode = "1" if fine == 1 else "L"
    {"strokes": strokes, "words": words, "specks": specks}[kind](draw, side, random)
    return np.asarray(mask.resize((side, side), Image.Resampling.BOX), dtype=np.float64)[..., None] / 255


def colour(random: Generator) -> np.ndarray:
    kind = random.random()
    if kind < 0.5:
        return np.ones(3) if kind < 0.4 else np.zeros(3)
    if kind < 0.6:
        return np.array([0.96, 0.96, 0.93])
    return random.uniform(0, 1, 3) if kind > 0.94 else np.full(3, random.uniform(*((0.85, 1), (0, 0.12))[kind > 0.77]))


def compressed(x: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray((255 * x).round().astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), dtype=np.float64) / 255


def worn(picture: Image.Image, random: Generator) -> np.ndarray:
    """A picture as it may be under what lies on it."""
    image = picture.convert("L").convert("RGB") if random.random() < 0.25 else picture
    kind, strength = random.random(), random.random()
    if 0.45 < kind < 0.55:
        image = image.filter(ImageFilter.GaussianBlur(0.5 + 2.5 * strength))
    x = np.asarray(image, dtype=np.float64) / 255
    if 0.55 < kind < 0.82:
        noise = random.standard_normal(x.shape)
        if kind > 0.75:
            noise = sum(np.roll(noise, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 3
        x = (x + 0.1 * strength * noise).clip(0, 1)
    return compressed(x, int(10 + 85 * strength)) if kind > 0.82 else x


def damaged(picture: Image.Image, kind: str, random: Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A damaged picture, `H W 3`; how far it is covered, `H W`; and where that can be seen."""
    x = y = worn(picture, random)
    covered, fine = np.zeros((*x.shape[:2], 1)), FINE if random.random() < 0.4 else 1
    paint = colour(random)
    for layer in () if kind == "clean" else (paint, 1 - paint) if kind == "specks" else (paint,):
        more = cover(kind, len(x), fine, random)
        y, covered = (1 - more) * y + more * layer, np.maximum(covered, more)
    seen = (np.abs(y - x).max(-1) > 0.06) & (covered[..., 0] > 0.5)
    after, strength = random.random(), random.random()
    if after < 0.12:
        y = (y + (0.003 + 0.017 * strength) * random.standard_normal(y.shape)).clip(0, 1)
    elif after < 0.3:
        y = compressed(y, int(75 + 22 * strength))
    return (255 * y).round() / 255, covered[..., 0], seen


class Table:
    """The marks of all pictures, and of each picture its kind and how much can be seen of what covers it.

    Args:
        first: `17 2`, the weights of the first look, for the marks of the second.
    """

    def __init__(self, first: torch.Tensor | None = None) -> None:
        features, truth, weight, area, picture, self.pictures = [], [], [], [], [], []
        for turn, (number, image) in enumerate(pictures()):
            for kind in KINDS:
                y, covered, seen = damaged(image, kind, np.random.default_rng([turn, KINDS.index(kind)]))
                x, hidden = torch.from_numpy(y).float().movedim(-1, 0)[None], torch.from_numpy(covered)
                for marks in filter(None, (look(each, first) for each in (x, 1 - x))):
                    inside = marks.label >= 0
                    share = [
                        torch.zeros(len(marks.area)).index_add_(0, marks.label[inside], on[inside].float()) / marks.area
                        for on in (hidden > 0.5, hidden > 0)
                    ]
                    features.append(marks.features)
                    truth.append(share[0] > 0.5)
                    weight.append(marks.area.clamp_max(150) * ((share[0] > 0.5) | (share[1] < 0.3)))
                    area.append(marks.area)
                    picture.append(torch.full((len(marks.area),), len(self.pictures)))
                self.pictures.append((kind, number, float(seen.sum())))
            print(f"\r{turn + 1} pictures", end="", file=sys.stderr, flush=True)
        self.features, self.weight = torch.cat(features), torch.cat(weight)
        self.truth, self.area, self.picture = torch.cat(truth), torch.cat(area), torch.cat(picture)


def look(image: torch.Tensor, first: torch.Tensor | None) -> Marks | None:
    """The light marks at a first look, or at the second; None where the first found no paint."""
    layer = Layer(image)
    marks = layer.marks()
    if first is None:
        return marks
    paint = Paint.of(image, marks, log_odds(marks, first))
    return paint and layer.marks(paint)


def odds(features: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    return features @ theta[:-1] + theta[-1]


def fit(table: Table, chosen: torch.Tensor) -> torch.Tensor:
    """Weights and bias: the greatest likelihood, with a slight pull of the weights on standardised features to zero."""
    x, y, w = table.features[chosen], table.truth[chosen].float(), table.weight[chosen] / table.weight[chosen].sum()
    mean, scale = x.mean(0), x.std(0)
    theta = torch.zeros(x.shape[1] + 1, requires_grad=True)
    z = (x - mean) / scale
    optimiser = torch.optim.LBFGS([theta], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        odds = z @ theta[:-1] + theta[-1]
        value = (w * F.binary_cross_entropy_with_logits(odds, y, reduction="none")).sum()
        value = value + 1e-5 * theta[:-1].square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    weights = theta.detach()[:-1] / scale
    return torch.cat([weights, theta.detach()[-1:] - weights @ mean])


def reached(table: Table, odds: torch.Tensor, chosen: set[int]) -> None:
    """Prints recall, precision, and the evidence of damage at which no clean picture is called damaged."""
    total = lambda value: torch.zeros(len(table.pictures)).index_add_(0, table.picture, value)  # noqa: E731
    found, right = total(table.area * (odds > 0)), total(table.area * ((odds > 0) & table.truth))
    evidence = total(table.area.sqrt() * (odds - 1).clamp_min(0))
    rows = {kind: [i for i, p in enumerate(table.pictures) if p[0] == kind and p[1] in chosen] for kind in KINDS}
    clean = evidence[rows["clean"]].sort(descending=True).values
    print(f"{len(clean)} clean pictures: evidence at most", " ".join(f"{value:.0f}" for value in clean[:6]))
    for kind in KINDS[1:]:
        seen = torch.tensor([table.pictures[i][2] for i in rows[kind]]).clamp_min(1)
        recall, precision = (right[rows[kind]] / seen).clamp_max(1), right[rows[kind]] / found[rows[kind]].clamp_min(1)
        above = (evidence[rows[kind]] > clean[0]).float().mean()
        print(f"{kind}: recall {recall.mean():.3f}, precision {precision.mean():.3f}, above all clean {above:.2f}")


def fitted(first: torch.Tensor | None = None) -> torch.Tensor:
    """Weights and bias."""
    table = Table(first)
    number = torch.tensor([p[1] for p in table.pictures])[table.picture]
    everyone = {p[1] for p in table.pictures}
    half = fit(table, number % 2 == 0)
    print("\nfitted on half of the photographs, on the others:")
    reached(table, odds(table.features, half), {each for each in everyone if each % 2})
    theta = fit(table, number >= 0)
    print("fitted on all:")
    reached(table, odds(table.features, theta), everyone)
    return theta


def main() -> None:
    torch.set_num_threads(1)
    weights = torch.zeros(len(WEIGHTS) + 1, 2)
    theta = fitted()
    weights[: len(theta) - 1, 0], weights[-1, 0] = theta[:-1], theta[-1]
    weights[:, 1] = fitted(weights)
    for name, row in zip([*WEIGHTS, "bias"], weights.tolist(), strict=True):
        print(f'    "{name}": ({row[0]:.2f}, {row[1]:.2f}),')


if __name__ == "__main__":
    main()
