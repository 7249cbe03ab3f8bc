"""Line plots as pictures, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_COLOURS = ["#1f6feb", "#d9480f", "#2b8a3e", "#862e9c", "#5c940d", "#c2255c"]
_INK, _GRID, _PAPER = "#212529", "#dee2e6", "#ffffff"


@dataclass
class Panel:
    """One set of axes; y is logarithmic.

    Args:
        title: what y is.
        lines: values by label, one for each step; what is not positive and finite leaves a gap.
        mark: a value to draw a dashed line at.
    """

    title: str
    lines: dict[str, Sequence[float]]
    mark: float | None = None


def draw(panels: Sequence[Panel], x_label: str, width: int = 768, height: int = 256) -> Tensor:
    """Panels above each other as an IMAGE, `1 H W 3` in [0, 1]; `height` is that of one panel."""
    image = Image.new("RGB", (width, height * len(panels)), _PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    for number, panel in enumerate(panels):
        _draw_panel(pen, font, panel, (70, number * height + 34, width - 20, (number + 1) * height - 46))
    pen.text((width - 20, height * len(panels) - 12), x_label, _INK, font, anchor="rm")
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


def _draw_panel(pen: ImageDraw.ImageDraw, font, panel: Panel, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    values = [v for line in panel.lines.values() for v in line if v > 0 and math.isfinite(v)]
    values += [panel.mark] if panel.mark else []
    low, high = (math.log10(min(values)), math.log10(max(values))) if values else (-1.0, 1.0)
    low, high = low - 0.1 * (high - low) - 0.05, high + 0.1 * (high - low) + 0.05
    steps = max((len(line) for line in panel.lines.values()), default=1)

    def place(step: int, value: float) -> tuple[float, float]:
        x = left + (right - left) * (step / max(steps - 1, 1))
        return x, bottom - (bottom - top) * (math.log10(value) - low) / (high - low)

    pen.text((left, top - 18), panel.title, _INK, font, anchor="lm")
    for tick in _ticks(low, high):
        _, y = place(0, tick)
        pen.line((left, y, right, y), _GRID)
        pen.text((left - 8, y), f"{tick:g}", _INK, font, anchor="rm")
    for step in sorted({round(i * (steps - 1) / 5) for i in range(6)}):
        x = left + (right - left) * step / max(steps - 1, 1)
        pen.line((x, bottom, x, bottom + 5), _INK)
        pen.text((x, bottom + 14), str(step + 1), _INK, font, anchor="mm")
    if panel.mark:
        _, y = place(0, panel.mark)
        for x in range(left, right, 10):
            pen.line((x, y, min(x + 5, right), y), _INK)
    pen.rectangle(box, outline=_INK)
    for number, (label, line) in enumerate(panel.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [place(i, v) if v > 0 and math.isfinite(v) else None for i, v in enumerate(line)]
        for a, b in zip(points[:-1], points[1:], strict=True):
            if a and b:
                pen.line((*a, *b), colour, 2)
        for point in filter(None, points):
            pen.ellipse((point[0] - 2, point[1] - 2, point[0] + 2, point[1] + 2), colour)
        if len(panel.lines) > 1:
            pen.text((right - 8, top + 12 + 17 * number), label, colour, font, anchor="rm")


def _ticks(low: float, high: float) -> list[float]:
    """Round values between 10^low and 10^high: decades, or 1, 2, 5 of each when there are few."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    digits = (1, 2, 5) if high - low < 2.5 else (1,)
    found = [digit * 10.0**decade for decade in decades for digit in digits]
    found = [value for value in found if low <= math.log10(value) <= high]
    return found[:: max(1, len(found) // 8)]
