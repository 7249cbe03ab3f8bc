"""The size that a picture had before Pillow or torch enlarged it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from pillow_pictures import saved, tensor
from torch import Tensor

from posterior.algebra.refusal import Refusal
from posterior.measurement.true_size import enlarging, true_size
from posterior.operators import kernels
from posterior.operators.convolution import convolution
from posterior.photos import load_photo

FILTERS = {
    "nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}  # fmt: skip


def small_photo(size: int, name: str = "coffee") -> Image.Image:
    return Image.fromarray((255 * load_photo(name, size)[0]).round().byte().numpy())


@pytest.mark.parametrize("kernel", FILTERS)
def test_enlarging_is_that_of_pillow(kernel: str):
    x = np.random.default_rng(0).random((1, 37), dtype=np.float32)
    there = np.asarray(Image.fromarray(x).resize((83, 1), FILTERS[kernel]))
    here = enlarging(83, 37, kernel) @ torch.from_numpy(x[0]).double()
    torch.testing.assert_close(here, torch.from_numpy(there[0].copy()).double(), atol=2e-5, rtol=0)


def test_the_other_bicubic_is_that_of_torch():
    x = torch.randn(1, 1, 8, 37, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    there = torch.nn.functional.interpolate(x, (8, 83), mode="bicubic", align_corners=False)
    here = x @ enlarging(83, 37, "bicubic (a = -3/4)").mT
    torch.testing.assert_close(here[..., 5:-5], there[..., 5:-5])  # torch repeats the last pixel beyond the border


@pytest.mark.parametrize(
    "kernel, size", [("nearest", (107, 90)), ("bilinear", (80, 67)), ("bicubic", (64, 54)), ("lanczos", (128, 107))]
)
def test_size_and_filter_are_read_off_the_picture(kernel: str, size: tuple[int, int]):
    before = small_photo(160).resize(size, Image.Resampling.LANCZOS)
    y = tensor(before.resize((192, 160), FILTERS[kernel]))
    found = true_size(y)
    assert (found.size, found.large, found.kernel) == (size[::-1], (160, 192), kernel) and str(found)
    assert found.factor == pytest.approx(192 / size[0], rel=0.02)
    off = found.small(y) - tensor(before)
    assert off.square().mean().sqrt() < 0.02  # the rounding of 8 bits, where the filter does not lose much
    assert found.operator.forward(y).shape[-2:] == found.size


def pictures() -> dict[str, Tensor]:
    photo = tensor(small_photo(192))
    blurred = convolution(kernels.gaussian(1.5)).forward(photo)
    return {"clean": photo, "JPEG": tensor(saved(photo, quality=30)), "blurred": (255 * blurred).round() / 255}


@pytest.mark.parametrize("what", pictures())
def test_other_pictures_were_not_enlarged(what: str):
    assert true_size(pictures()[what]) is None


def test_a_small_picture_is_refused():
    with pytest.raises(Refusal, match="64 x 64"):
        true_size(torch.zeros(1, 3, 40, 80))
