"""The blur that is read off a picture, beside the one that was done to it."""

from __future__ import annotations

import math

import pytest
import torch
from pillow_pictures import drawing, saved, tensor
from torch import Tensor

from posterior.algebra.refusal import Refusal
from posterior.measurement.blur_estimate import estimate_blur, log_likelihood
from posterior.measurement.spectrum import Spectrum, frequencies, smeared
from posterior.operators import kernels
from posterior.operators.convolution import convolution
from posterior.operators.grayscale import Grayscale
from posterior.operators.identity import Identity
from posterior.operators.jpeg import JPEG
from posterior.photos import load_photo


def photo(name: str, size: int = 192) -> Tensor:
    return load_photo(name, size).movedim(-1, 1)


def recorded(x: Tensor, kernel: Tensor, noise: float = 0.01) -> Tensor:
    """Blurred, noisy, and in 8 bits."""
    y = convolution(kernel).forward(x)
    y = y + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return (255 * y.clamp(0, 1)).round() / 255


@pytest.mark.parametrize("kernel", [kernels.disk(4.3), kernels.motion(21.0, 35.0)], ids=["disk", "motion"])
def test_the_periodogram_of_blurred_white_noise_is_the_smeared_power(kernel: Tensor):
    """81 blocks that overlap by half, averaged over 60 frequencies: 2 % of error."""
    white = torch.randn(1, 1, 640, 640, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = convolution(kernel.double(), "circular").forward(white)[0]
    ratio = Spectrum(y, 128).log_power - smeared([kernel], 128)[0].log()
    fy, fx, seen = frequencies(128)
    f = (fx**2 + fy**2).sqrt()[seen]
    loud = smeared([kernel], 128)[0] > 1e-3
    for low in (0.03, 0.06, 0.1, 0.15):
        ring = loud & (f >= low) & (f < low + 0.03)
        assert ratio[ring].exp().mean().item() == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize(
    "kind, theta, kernel",
    [
        ("gaussian", (2.0,), kernels.gaussian(2.0)),
        ("defocus", (4.0,), kernels.disk(4.0)),
        ("motion", (15.0, 30.0), kernels.motion(15.0, 30.0)),
    ],
)
def test_kind_and_parameters_are_read_off_the_picture(kind: str, theta: tuple[float, ...], kernel: Tensor):
    y = recorded(photo("astronaut"), kernel)
    found = estimate_blur(y)
    assert found.kind == kind and found.confidence > 0.8 and str(found)
    assert found.parameters[0] == pytest.approx(theta[0], rel=0.1)
    assert found.parameters[1:] == pytest.approx(theta[1:], abs=5)
    assert found.noise == pytest.approx(0.01, rel=0.2)
    assert found.operator.forward(y).shape == y.shape
    told = log_likelihood(y, convolution(kernel))
    for wrong in (Identity(), convolution(kernels.gaussian(5.0)), convolution(kernels.motion(15.0, 120.0))):
        assert log_likelihood(y, wrong) < told - 10


def test_a_sharp_photo_has_no_blur():
    found = estimate_blur(photo("chelsea"))
    assert (found.kind, found.operator, found.parameters) == ("none", None, ())


@pytest.mark.parametrize("name", ["one colour", "one edge", "stripes"])
def test_what_no_blur_can_leave_is_not_blurred(name: str):
    """Their spectra are not those of photographs, and fall as if a blur had made them."""
    across = torch.arange(128)
    line = {"one colour": 0 * across + 0.5, "one edge": (across > 70).float(), "stripes": across % 2.0}[name]
    found = estimate_blur(line.expand(1, 3, 128, -1), [None])
    assert (found.kind, found.confidence) == ("none", 1.0)


def ropes(angle: float, side: int = 192) -> Tensor:
    """Four ropes before a plain sky, `1 3 H W`."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    across = x * math.sin(math.radians(angle)) + y * math.cos(math.radians(angle))
    picture = 0.7 - 0.1 * y / side
    for place, half in ((60, 2.0), (75, 1.5), (130, 4.0), (170, 1.2)):
        picture = picture - 0.5 * torch.sigmoid(4 * (half - (across - place).abs()))
    return picture[None, None].expand(1, 3, -1, -1)


@pytest.mark.parametrize("angle", [27.0, 63.0])
def test_what_lies_one_way_has_not_moved(angle: float):
    """Their spectrum lies along a line, as that of a movement does, but has no zeros."""
    still = recorded(ropes(angle), torch.ones(1, 1, 1, 1), 0.003)
    assert estimate_blur(still, jpegs=[None]).kind == "none"


@pytest.mark.parametrize("quality", [50, 90])
def test_a_drawing_s_jpeg_is_not_blurred(quality: int):
    assert estimate_blur(tensor(saved(drawing(), quality=quality))).kind == "none"


def test_a_jpeg_is_seen_and_its_blur_read_less_surely():
    y = recorded(photo("astronaut", 128), kernels.disk(4.0))
    image = (JPEG(75).forward(y).clamp(0, 1) * 255).round() / 255
    found, believed = estimate_blur(image), estimate_blur(image, jpegs=[None])
    assert found.kind == "defocus" and found.parameters[0] == pytest.approx(4.0, abs=0.4)
    assert found.probabilities != believed.probabilities


def test_pictures_that_were_blurred_alike_are_read_together():
    y = recorded(torch.cat([photo("china", 96), photo("coffee", 96)]), kernels.disk(3.0))
    found = estimate_blur(y)
    assert found.kind == "defocus" and found.parameters[0] == pytest.approx(3.0, abs=0.3)


def test_what_cannot_be_read_is_refused():
    with pytest.raises(Refusal, match="64 x 64"):
        estimate_blur(photo("china", 48))
    with pytest.raises(Refusal, match="no blur"):
        log_likelihood(photo("china", 64), Grayscale())
