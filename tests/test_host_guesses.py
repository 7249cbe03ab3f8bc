"""Solve Inverse Problem where what was told of the damage is wrong, or a guess."""

from __future__ import annotations

import pytest
import torch

from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise


@pytest.fixture(scope="module")
def model(host):
    return host.call("PosteriorPhotoPrior")


@pytest.fixture(scope="module")
def photos(host):
    """A clean photo and one that a disk of 3 pixels blurred, in 8 bits, `1 H W 3`."""
    clean = host.call("PosteriorExamplePhoto", size=128)[0]
    operator = host.call("PosteriorDefocus", radius=3.0)
    y = Measurement.simulate(operator, clean.movedim(-1, 1), GaussianNoise(0.01), 1).y.movedim(1, -1)
    return clean, (y.clamp(0, 1) * 255).round() / 255


def decibels(x: torch.Tensor, clean: torch.Tensor) -> float:
    return -10 * (x - clean).square().mean().log10().item()


def solved(host, model, image, operator, **inputs):
    measurement = host.call("PosteriorObserve", image=image, operator=operator, sigma_y=0.01)
    picture, _, _, report = host.call("PosteriorSolve", model=model, measurement=measurement, steps=8, **inputs)
    return picture, report


def test_a_wrong_radius_does_no_harm(host, model, photos):
    """4.5 pixels told for 3: without a look at the photo it ends 10 dB below the blurred one."""
    clean, image = photos
    wrong, report = solved(host, model, image, host.call("PosteriorDefocus", radius=4.5))
    guess, found = solved(host, model, image, host.call("PosteriorDefocus", radius=4.5, estimate=True))
    assert decibels(wrong, clean) > decibels(image, clean) + 1
    assert "not white" in report and "radius (px): told 4.5, found" in report
    torch.testing.assert_close(guess, wrong)
    assert "not white" not in found and "radius (px): told 4.5, found" in found


def test_a_blur_of_any_shape_is_read_off_the_photo_or_found_with_the_picture(host, model, photos):
    clean, image = photos
    dot = torch.zeros(1, 9, 9, 3)
    dot[:, 3:6, 3:6] = 1
    told, guess = (host.call("PosteriorKernelBlur", kernel=dot, estimate=estimate) for estimate in (False, True))
    read, report = solved(host, model, image, guess)
    assert decibels(read, clean) > decibels(image, clean) + 1 and "was read off the photo" in report
    small = image[:, :48, 40:88]
    found, report = solved(host, model, small, guess)
    assert decibels(found, clean[:, :48, 40:88]) > decibels(small, clean[:, :48, 40:88]) - 0.3
    assert "found with the picture" in report and (found - solved(host, model, small, told)[0]).abs().max() > 0.05


def test_what_cannot_be_found_is_taken_as_told_and_said(host, model, photos):
    """Behind a mask it can, with the picture; after a reduction, or with guidance of one's own, it cannot."""
    image = photos[1][:, :64, :64]
    blur = {guess: host.call("PosteriorDefocus", radius=2.0, estimate=guess) for guess in (True, False)}
    half, mask = host.call("PosteriorSuperResolution", factor=2), torch.zeros(1, 64, 64)
    mask[:, 30:34] = 1
    orders = {guess: host.call("PosteriorCompose", first=half, second=blur[guess]) for guess in blur}
    pictures = {guess: solved(host, model, image, operator) for guess, operator in orders.items()}
    assert torch.equal(pictures[True][0], pictures[False][0])
    assert "must have happened first" in pictures[True][1] and "as told" not in pictures[False][1]
    measurement = host.call("PosteriorObserve", image=image, operator=blur[True], sigma_y=0.01)
    guidance = host.call("PosteriorDiffPIR", measurement=measurement, trust=1.0)
    assert "as told: guidance is connected" in solved(host, model, image, blur[True], guidance=guidance)[1]
    hidden = host.call("PosteriorCompose", first=blur[True], second=host.call("PosteriorInpainting", mask=mask))
    assert "radius (px): told 2, found" in solved(host, model, image, hidden)[1]


def test_what_was_grey_stays_grey_unless_it_is_free(host, model, photos):
    """A hole in a grey photo; and, to be kept grey, a yellowed one, with the own choice of guidance as well."""
    image = photos[0][:, :48, :48].mean(-1, keepdim=True).expand(-1, -1, -1, 3)
    mask = torch.zeros(1, 48, 48)
    mask[:, 12:36, 12:36] = 1
    operator = host.call("PosteriorInpainting", mask=mask)

    def colour(image: torch.Tensor, colours: str, **inputs) -> tuple[float, str]:
        picture, report = solved(host, model, image, operator, colours=colours, estimate="samples", **inputs)
        return (picture.amax(-1) - picture.amin(-1)).max().item(), report

    found, report = colour(image, "automatic")
    assert found < 1e-6 and "kept grey, as the damaged" in report
    found, report = colour(image, "free")
    assert found > 2 / 255 and "grey" not in report
    yellowed = image * torch.tensor([1.0, 0.95, 0.8])
    assert colour(yellowed, "automatic")[0] > 0.03
    found, report = colour(yellowed, "keep grey")
    assert found < 1e-6 and "kept grey, as asked" in report
    measurement = host.call("PosteriorObserve", image=yellowed, operator=operator, sigma_y=0.01)
    found, report = colour(yellowed, "keep grey", guidance=host.call("PosteriorDDNM", measurement=measurement))
    assert found < 1e-6 and "kept grey, as asked" in report
