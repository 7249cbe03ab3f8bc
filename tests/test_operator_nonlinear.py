"""Operators that are not linear against other libraries: Pillow, numpy, and their own linear parts."""

from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import scipy.ndimage
import scipy.signal
import torch
import torch.autograd.forward_ad as forward_ad
from PIL import Image
from test_operator_references import noise_picture, photo

from posterior.operators.jpeg import CHROMINANCE, JPEG, LUMINANCE, enlarge, quantisation_table
from posterior.operators.pointwise import Palette, Quantisation, Saturation

F64 = torch.float64


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 92, 100])
def test_jpeg_tables_are_pillows(quality: int) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG", quality=quality)
    tables = Image.open(buffer).quantization
    for base, table in ((LUMINANCE, tables[0]), (CHROMINANCE, tables[1])):
        assert quantisation_table(base, quality).flatten().int().tolist() == list(table)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("quality", [1, 10, 30, 60, 90, 100])
def test_jpeg_is_pillows(quality: int, subsampling: str) -> None:
    for name, (h, w) in (("chelsea", (128, 128)), ("china", (101, 123)), ("fig", (97, 128))):
        pixels = (photo(name)[..., :h, :w] * 255).round()
        buffer = io.BytesIO()
        picture = Image.fromarray(pixels[0].movedim(0, -1).byte().numpy())
        picture.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
        expected = np.asarray(Image.open(buffer), dtype=np.float32)
        ours = 255 * JPEG(quality, subsampling)(pixels / 255)
        assert np.abs(ours[0].movedim(0, -1).numpy() - expected).mean() < 0.3, name


def test_grey_jpeg_is_pillows() -> None:
    pixels = (photo()[:, :1] * 255).round()
    buffer = io.BytesIO()
    Image.fromarray(pixels[0, 0].byte().numpy()).save(buffer, "JPEG", quality=30)
    expected = np.asarray(Image.open(buffer), dtype=np.float32)
    assert np.abs(255 * JPEG(30)(pixels / 255)[0, 0].numpy() - expected).mean() < 0.3


@pytest.mark.parametrize("quality", [5, 20, 50, 90])
def test_jpeg_of_jpeg_is_nearly_itself(quality: int) -> None:
    operator, x = JPEG(quality), photo()
    y = operator(x)
    assert (operator(operator.pinv(y)) - y).abs().mean() < 0.6 / 255 < (y - x).abs().mean()


def test_jpeg_gradient_is_that_of_its_linear_chain() -> None:
    """Straight-through: without chroma subsampling the chain is the identity, with it a blur of the chroma alone."""
    x = 0.4 + 0.2 * noise_picture(1, 3, 19, 22)
    v = noise_picture(1, 3, 19, 22, seed=1)
    assert torch.allclose(JPEG(30, "4:4:4").vjp(x, v), v, atol=2e-4)  # libjpeg's 2^-16
    # by scipy: chroma is averaged over 2 x 2 pixels and enlarged by the triangle (1 3 3 1) / 4 on each axis
    x = 0.4 + 0.2 * noise_picture(1, 3, 16, 24)
    d, v = noise_picture(3, 16, 24, seed=2).numpy(), noise_picture(1, 3, 16, 24, seed=3)
    to_ycc = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    ycc = np.einsum("ij,jhw->ihw", to_ycc, d)
    for plane in ycc[1:]:
        small = plane.reshape(8, 2, 12, 2).mean((1, 3))
        padded = np.pad(small, 1, mode="edge")
        big = np.zeros((20, 28))
        big[::2, ::2] = padded
        triangle = np.array([1, 3, 3, 1]) / 4
        plane[:] = scipy.signal.convolve2d(big, np.outer(triangle, triangle))[3:19, 3:27]
    expected = np.einsum("ij,jhw->ihw", np.linalg.inv(to_ycc), ycc)
    slope = (JPEG(30).vjp(x, v) * torch.from_numpy(d)).sum().item()
    assert slope == pytest.approx((expected * v[0].numpy()).sum(), rel=1e-4)


@pytest.mark.parametrize("ratio", [(2, 2), (1, 2)])
def test_the_triangle_filter_has_the_gradient_of_torch(ratio: tuple[int, int]) -> None:
    x, v = noise_picture(1, 2, 3, 5).requires_grad_(), noise_picture(1, 2, 3 * ratio[0], 10, seed=1)
    expected = torch.nn.functional.interpolate(x, scale_factor=ratio, mode="bilinear")
    (gradient,) = torch.autograd.grad(expected, x, v)
    rounded = enlarge(255 * x, ratio)
    assert (rounded / 255 - expected).abs().max() <= 1.01 / 255
    torch.testing.assert_close(torch.autograd.grad(rounded, x, v)[0] / 255, gradient)


@pytest.mark.parametrize("subsampling", JPEG.SUBSAMPLINGS)
def test_jpeg_directional_derivatives_are_the_gradient(subsampling: str) -> None:
    """Forward and backward mode, where some pixels are cut off."""
    x, d, v = (noise_picture(1, 3, 19, 22, seed=seed) for seed in range(3))
    x = 1.4 * x - 0.2
    operator = JPEG(30, subsampling, offset=(3, 5), orientation=6)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(operator(forward_ad.make_dual(x, d))).tangent
    torch.testing.assert_close((tangent * v).sum(), (operator.vjp(x, v) * d).sum())


def test_jpeg_gradient_predicts_large_changes() -> None:
    x, operator = photo(size=64).double() * 0.6 + 0.2, JPEG(90)
    direction = torch.nn.functional.interpolate(noise_picture(1, 3, 8, 8) - 0.5, size=64, mode="bicubic")
    numeric = ((operator(x + 0.2 * direction) - operator(x - 0.2 * direction)) * direction).sum() / 0.4
    assert (operator.vjp(x, direction) * direction).sum().item() == pytest.approx(numeric.item(), rel=0.03)


@pytest.mark.parametrize("dither", ["none", "ordered", "random"])
def test_quantisation(dither: str) -> None:
    x = photo(size=64)
    operator = Quantisation(4, dither, 1)
    y = operator(x)
    assert set((y * 3).round().unique().tolist()) <= {0, 1, 2, 3} and torch.allclose(y * 3, (y * 3).round(), atol=1e-5)
    if dither == "none":
        assert torch.allclose(y, (x * 3).round() / 3)
    else:  # dithering keeps the mean where rounding does not
        smooth = torch.nn.functional.avg_pool2d(y - x, 16).abs().mean()
        assert smooth < 0.5 * torch.nn.functional.avg_pool2d(Quantisation(4)(x) - x, 16).abs().mean()
    v = noise_picture(1, 3, 64, 64).float()
    assert torch.allclose(operator.vjp(x.clamp(0.01, 0.99), v), v)


def test_palette_is_pillows() -> None:
    """Pillow's adaptive palette of 16 colours, without dithering, then every pixel to the nearest."""
    pixels = (photo(size=64) * 255).round()
    picture = Image.fromarray(pixels[0].movedim(0, -1).byte().numpy())
    array = np.array(picture.quantize(16, dither=Image.Dither.NONE).convert("RGB"))
    reduced = torch.from_numpy(array).movedim(-1, 0)[None]
    operator = Palette.of(reduced / 255)
    assert len(operator.colours) == 16 and torch.allclose(operator(reduced / 255), reduced / 255)
    ours, theirs = ((y - pixels / 255).square().sum(1) for y in (operator(pixels / 255), reduced / 255))
    assert (ours <= theirs + 1e-5).all()  # the nearest colour, where Pillow's own search is only near
    expected = torch.cdist(pixels[0].flatten(1).T / 255, operator.colours).min(1).values.square().reshape(1, 64, 64)
    assert torch.allclose(ours, expected, atol=1e-5)


def test_saturation_is_the_high_dynamic_range_problem() -> None:
    """In [-1, 1] it is clip(2 x, -1, 1)."""
    x = noise_picture(1, 3, 8, 8)
    assert torch.allclose(2 * Saturation(2.0, 0.5)(x) - 1, (2 * (2 * x - 1)).clamp(-1, 1))
