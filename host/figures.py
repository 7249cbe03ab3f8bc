"""Figures for the eye, drawn with Pillow: heat maps with a scale, labelled grids, histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_INK, _PAPER, _BAR, _MARK = "#212529", "#ffffff", "#1f6feb", "#d9480f"
#: narrower pictures than this are enlarged, so that words fit below them, pixels
_LEGIBLE = 128
#: dark to bright, as even steps of lightness (the anchors of a perceptual map, linear in between)
_HEAT = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], dtype=np.float32) / 255


def heat(values: Tensor, most: float) -> Tensor:
    """Numbers `H W`, 0 to `most`, as colours `H W 3`."""
    share = (values.double() / max(most, 1e-12)).clamp(0, 1).cpu().numpy() * (len(_HEAT) - 1)
    place = np.arange(len(_HEAT))
    colours = [np.interp(share, place, _HEAT[:, channel]) for channel in range(3)]
    return torch.from_numpy(np.stack(colours, -1).astype(np.float32))


def heat_map(values: Tensor, most: float, title: str) -> Tensor:
    """Numbers `H W` as a picture with a scale below it, `1 H' W 3`; the scale is in the unit of the numbers."""
    height, width = values.shape
    size = max(10, min(18, width // 16))
    strip = 4 * size + 4
    sheet = Image.new("RGB", (width, height + strip), _PAPER)
    sheet.paste(_image(heat(values, most)), (0, 0))
    ramp = torch.linspace(0, most, width)[None].expand(size, -1)
    sheet.paste(_image(heat(ramp, most)), (0, height + 4))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size)
    middle = height + 4 + size + size * 3 // 4
    pen.text((2, middle), "0", _INK, font, anchor="lm")
    pen.text((width - 2, middle), f"{most:.2g}", _INK, font, anchor="rm")
    pen.text((width // 2, middle + size * 5 // 4), title, _INK, font, anchor="mm")
    return _tensor(sheet)


def grid(images: Sequence[Tensor], captions: Sequence[str], columns: int = 0) -> Tensor:
    """Pictures `H W 3` side by side with a few lines of caption each, `1 H' W' 3`; smaller ones are enlarged."""
    columns = min(columns or 4, len(images))
    width, height = (max(image.shape[axis] for image in images) for axis in (1, 0))
    enlarged = -(-_LEGIBLE // width)
    width, height = enlarged * width, enlarged * height
    font = ImageFont.load_default(max(11, min(20, width // 20)))
    lines = max(caption.count("\n") + 1 for caption in captions)
    wide = max(width, *(math.ceil(font.getlength(line)) for caption in captions for line in caption.split("\n")))
    high = height + math.ceil((lines * 1.4 + 0.5) * font.size)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (wide + 8) - 8, rows * (high + 8) - 8), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = (number % columns) * (wide + 8), (number // columns) * (high + 8)
        sheet.paste(_image(image).resize((width, height), Image.Resampling.NEAREST), (left, top))
        pen.multiline_text((left + 2, top + height + font.size // 4), caption, _INK, font, spacing=font.size // 4)
    return _tensor(sheet)


def histogram(values: Tensor, title: str, width: int = 512, height: int = 256) -> Tensor:
    """Of numbers that should be N(0, 1), with that density drawn over it, `1 H W 3`."""
    edges = np.linspace(-5, 5, 61)
    counts, _ = np.histogram(values.double().cpu().numpy(), edges, density=True)
    centres = (edges[1:] + edges[:-1]) / 2
    normal = np.exp(-(centres**2) / 2) / np.sqrt(2 * np.pi)
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    left, top, right, bottom = 12, 30, width - 12, height - 26
    most = max(counts.max(initial=0), normal.max()) * 1.05

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (x + 5) / 10 * (right - left), bottom - y / most * (bottom - top)

    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        (x0, y0), (x1, y1) = place(low, count), place(high, 0)
        pen.rectangle((x0, y0, x1 - 1, y1), _BAR)
    pen.line([place(x, y) for x, y in zip(centres, normal, strict=True)], _MARK, 3)
    pen.text((left, 14), title, _INK, font, anchor="lm")
    for tick in range(-4, 5, 2):
        pen.text((place(tick, 0)[0], bottom + 12), str(tick), _INK, font, anchor="mm")
    return _tensor(sheet)


def _image(x: Tensor) -> Image.Image:
    return Image.fromarray((x.clamp(0, 1).cpu().numpy() * 255).round().astype(np.uint8))


def _tensor(sheet: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)[None]
