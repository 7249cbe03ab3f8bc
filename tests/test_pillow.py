"""JPEG files and dithered pictures beside those of Pillow, as cameras and other programs make them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from pillow_pictures import pil, saved, tensor
from test_operator_references import photo

from posterior.algebra.refusal import Refusal
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.base import Operator
from posterior.operators.compose import compose
from posterior.operators.dither import ErrorDiffusion
from posterior.operators.jpeg import JPEG
from posterior.operators.pointwise import Palette

#: luminance and chrominance as a camera or another program has them: flat, steep, and not alike
TABLES = [[3 + 2 * (i % 8) + 3 * (i // 8) for i in range(64)], [9 + 5 * ((i % 8 + i // 8) // 2) for i in range(64)]]


@pytest.mark.parametrize("subsampling", JPEG.SUBSAMPLINGS)
@pytest.mark.parametrize("size", [(128, 128), (101, 123)])
def test_jpeg_with_tables_of_its_own_is_pillows(subsampling: str, size: tuple[int, int]) -> None:
    """A11, to the tolerance of the usual tables."""
    x = photo()[..., : size[0], : size[1]]
    for tables in (TABLES, TABLES[:1]):
        theirs = tensor(saved(x, qtables=tables, subsampling=subsampling))
        ours = JPEG(subsampling=subsampling, tables=tables)((255 * x).round() / 255)
        assert 255 * (ours - theirs).abs().mean() < 0.6


def test_jpeg_that_was_cut_or_saved_twice_is_pillows() -> None:
    """A11: 3 columns and 5 rows cut off; quality 40 and then 80."""
    x = photo()[..., :128, :128]
    theirs = tensor(saved(x, quality=30))[..., 5:, 3:]
    cut = (x[..., 5:, 3:] * 255).round() / 255
    right, wrong = (
        255 * (JPEG(30, offset=offset)(cut) - theirs)[..., 16:, 16:].abs().mean() for offset in ((3, 5), (0, 0))
    )
    assert right < 0.6 < 2 < wrong
    assert torch.equal(JPEG(30, offset=(19, 21))(cut), JPEG(30, offset=(3, 5))(cut))
    theirs = tensor(saved(tensor(saved(x, quality=40)), quality=80))
    ours = compose(JPEG(80), JPEG(40))((255 * x).round() / 255)
    assert 255 * (ours - theirs).abs().mean() < 0.9  # two files of 0.6 each, in part the same
    once = JPEG(80)((255 * x).round() / 255)
    assert 255 * (once - theirs).abs().mean() > 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_that_is_turned_is_pillows(orientation: int) -> None:
    """A11: the blocks of a file that EXIF turns begin at another corner, and 4:2:2 is halved the other way."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    file = saved(photo()[..., :101, :123], qtables=TABLES, subsampling="4:2:2", exif=exif)
    seen = tensor(ImageOps.exif_transpose(file))
    clean = Image.fromarray(np.array(pil(photo()[..., :101, :123])))
    clean.getexif()[0x0112] = orientation
    x = tensor(ImageOps.exif_transpose(clean))
    assert x.shape == seen.shape
    ours = JPEG(subsampling="4:2:2", tables=TABLES, orientation=orientation)(x)
    assert 255 * (ours - seen).abs().mean() < 0.6


def test_jpeg_tables_that_are_none() -> None:
    for tables in ([], [[1] * 63], [[0] * 64]):
        with pytest.raises(Refusal, match="no JPEG quantisation tables"):
            JPEG(tables=tables)


@pytest.mark.parametrize("colours", [2, 16, 64, 256])
def test_error_diffusion_is_pillows(colours: int) -> None:
    """A12: the grain that Pillow's own error diffusion leaves has the level that is said, also of a palette."""
    x = photo()[..., :128, :128]
    if colours == 2:
        grey = pil(x).convert("L")
        x, y, operator = tensor(grey), tensor(grey.convert("1")), ErrorDiffusion(1.0)
    else:
        palette = pil(x).quantize(colours)
        y = tensor(pil(x).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
        operator: Operator = ErrorDiffusion(Palette.of(y))
    measurement = Measurement.observe(operator, y, GaussianNoise(0.0))
    assert 0.6 < measurement.fit(x).item() < 1.6  # colours that crowd are diffused beyond their nearest ones
