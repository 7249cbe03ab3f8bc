"""What a photo shows of its own damage, against what was done to it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from posterior.benchmarks.blind_kernels import correlation
from posterior.measurement.as_seen import as_seen
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.measurement.seen_noise import as_noisy_as_seen, blur_in
from posterior.operators import kernels
from posterior.operators.base import Operator
from posterior.operators.compose import compose
from posterior.operators.convolution import convolution
from posterior.operators.downscale import downscale
from posterior.operators.families import DiskRadius, Exposure, FreeKernel, GaussianWidth, Motion
from posterior.operators.family import told
from posterior.operators.identity import Identity, Scale
from posterior.operators.inpainting import Inpainting, RandomPixels
from posterior.operators.jpeg import JPEG
from posterior.operators.levels import Levels
from posterior.photos import load_photo


def blurred(kernel: Tensor, noise: float = 0.01) -> Tensor:
    """A photo in 8 bits, `1 3 128 128`."""
    photo = load_photo("chelsea", 128).movedim(-1, 1)
    y = Measurement.simulate(convolution(kernel), photo, GaussianNoise(noise), 1).y
    return (y.clamp(0, 1) * 255).round() / 255


def disk(radius: float, guess: bool = False) -> Operator:
    return told(convolution(kernels.disk(radius)), DiskRadius(radius=radius), guess)


def gaussian(sigma: float, guess: bool = False) -> Operator:
    return told(convolution(kernels.gaussian(sigma)), GaussianWidth(sigma=sigma), guess)


def motion(length: float, angle: float, guess: bool = False) -> Operator:
    return told(convolution(kernels.motion(length, angle)), Motion(length=length, angle=angle), guess)


#: kernel; operators that are told wrong; that is right
BLURS = {
    "defocus": (kernels.disk(3.0), [disk(1.5), disk(4.5), disk(2.0, True)], disk(3.0)),
    "gaussian": (kernels.gaussian(2.0), [gaussian(1.0), gaussian(3.0), gaussian(3.0, True)], gaussian(2.0)),
    "motion": (kernels.motion(11.0, 30.0), [motion(11.0, 45.0, True)], motion(11.0, 30.0)),
}


@pytest.mark.parametrize("name", BLURS)
def test_a_blur_that_the_photo_contradicts_is_taken_as_the_photo_shows_it(name):
    kernel, wrong, right = BLURS[name]
    image = blurred(kernel)
    for operator in wrong:
        seen = as_seen(Measurement.observe(operator, image, GaussianNoise(0.01)))
        made = seen.measurement.operator.forward(image)
        # a kernel within about 6 %; the wrong ones are further away than three times that
        error = (made - right.forward(image)).norm() / (operator.forward(image) - right.forward(image)).norm()
        assert error < 0.33 and not seen.measurement.operator.unknown
        assert "told" in seen.words and ("not white" in seen.words) != operator.unknown
    measurement = Measurement.observe(right, image, GaussianNoise(0.01))
    assert as_seen(measurement).measurement is measurement and not as_seen(measurement).words


def test_a_guessed_kernel_is_read_off_a_photo_that_is_clear_about_it():
    """A path of 13 pixels; the sharp photo, whose evidence is below that of no blur, is left to be found otherwise."""
    kernel = kernels.camera_shake(6.0, 3)
    guess = told(convolution(kernels.disk(9.0)), FreeKernel(19), True)
    seen = as_seen(Measurement.observe(guess, blurred(kernel), GaussianNoise(0.01)))
    assert correlation(blur_in(seen.measurement.operator).kernel, kernel) > 0.7 > correlation(kernels.disk(9.0), kernel)
    assert not seen.measurement.operator.unknown and "read off the photo" in seen.words
    assert 0.01 < seen.measurement.noise.level < 0.05  # no found kernel is quite right
    sharp = Measurement.observe(guess, load_photo("chelsea", 128).movedim(-1, 1), GaussianNoise(0.01))
    seen = as_seen(sharp)
    assert seen.measurement is sharp and "too even" in seen.words


def test_what_cannot_be_read_is_taken_as_told():
    image, wrong = blurred(kernels.disk(3.0)), disk(4.5)
    simulated = Measurement.simulate(wrong, image, GaussianNoise(0.01), 1)
    hidden = Measurement.observe(compose(RandomPixels(0.9), wrong), image, GaussianNoise(0.01))
    small = Measurement.observe(disk(2.0, True), image[..., :48, :48], GaussianNoise(0.01))
    for measurement in (simulated, hidden, small):
        assert as_seen(measurement).measurement is measurement


@pytest.mark.parametrize("quality", [20, 50, 35])
def test_a_jpeg_says_its_quality(quality):
    image = (JPEG(35).forward(load_photo("chelsea", 128).movedim(-1, 1)).clamp(0, 1) * 255).round() / 255
    measurement = Measurement.observe(JPEG(quality), image, GaussianNoise(0.0))
    seen = as_seen(measurement)
    assert torch.equal(seen.measurement.operator.luminance, JPEG(35).luminance)
    assert (seen.measurement is measurement) == (quality == 35) == (not seen.words)


@pytest.mark.parametrize("quality", [40, 85])
def test_what_a_jpeg_rounded_after_a_blur_counts_as_noise(quality):
    """As loud as what it changed, or more: to undo both exactly divides what was rounded by the blur."""
    clean = blurred(kernels.disk(3.0), 0.0)
    image = (JPEG(quality).forward(clean).clamp(0, 1) * 255).round() / 255
    blur, lost = convolution(kernels.disk(3.0)), torch.zeros(1, 1, 128, 128)
    lost[..., :3] = 1
    for operator, left in (
        (compose(JPEG(quality), blur), "Blur"),
        (compose(JPEG(quality), compose(Inpainting(lost), blur)), "Inpainting after Blur"),
    ):
        seen = as_seen(Measurement.observe(operator, image, GaussianNoise(0.0)))
        assert seen.measurement.operator.linear and seen.measurement.operator.label == left
        changed, sigma = (image - clean).square().mean().sqrt(), torch.as_tensor(seen.measurement.noise.sigma)
        assert changed < sigma.min() < 3 * changed and "JPEG" in seen.words
        assert as_seen(seen.measurement).measurement.operator is seen.measurement.operator
    reduced = Measurement.observe(compose(JPEG(quality), downscale(2)), image, GaussianNoise(0.0))
    assert as_seen(reduced).measurement is reduced  # its inverse is harmless


def test_faded_levels_are_found_where_they_are_a_guess():
    """Within what photographs differ: the darkest and the brightest of this one are those of most."""
    photo = load_photo("chelsea", 128).movedim(-1, 1)
    image = 0.4 * photo * torch.tensor([1.2, 1.0, 0.8])[:, None, None] + 0.35
    for guess in (True, False):
        levels = told(Levels(0.7 * torch.tensor([1.2, 1.0, 0.8]), 0.1), Exposure(), guess)
        measurement = Measurement.observe(levels, image, GaussianNoise(0.01))
        found = as_seen(measurement).measurement
        if not guess:
            assert found is measurement
            continue
        assert found.operator.gain.flatten().tolist() == pytest.approx([0.48, 0.4, 0.32], rel=0.2)
        assert found.operator.offset.item() == pytest.approx(0.35, abs=0.05)
        torch.testing.assert_close(found.operator.picture(found.y), image)


def test_a_darker_exposure_is_found_where_it_is_a_guess():
    """The brightest place of a photo is nearly white, here as in the mean of photos; black stays as told."""
    photo = load_photo("china", 128).movedim(-1, 1)
    image = GaussianNoise(0.01).sample(0.35 * photo + 0.1, 0)
    image = (255 * image).round() / 255
    scale = told(Scale(0.6, 0.1), Exposure(offset=False), True)
    seen = as_seen(Measurement.observe(scale, image, GaussianNoise(0.01)))
    assert (
        seen.measurement.operator.factor == pytest.approx(0.35, rel=0.1) and "gain: told 0.6, found 0.3" in seen.words
    )
    torch.testing.assert_close(seen.measurement.y, image - 0.1)


@pytest.mark.parametrize("kernel", [kernels.disk(3.0), kernels.camera_shake(9, 1)], ids=["symmetric", "any"])
@pytest.mark.parametrize("said, raised", [(0.0, True), (0.003, True), (0.01, False), (0.03, False)])
def test_a_blurred_photo_is_as_noisy_as_it_looks(kernel, said, raised):
    clean, blur = load_photo("chelsea", 128).movedim(-1, 1), convolution(kernel)
    image = Measurement.simulate(blur, clean, GaussianNoise(0.01), 1).y.clamp(0, 1)
    measurement = Measurement.observe(blur, image, GaussianNoise(said))
    found = as_noisy_as_seen(measurement)
    assert found.noise.level == pytest.approx(0.01, rel=0.2) if raised else found is measurement
    words = as_seen(measurement).words  # more than there is may be wanted, and is only said
    assert ("as the photo shows" in words) == (said != 0.01) and ("was kept" in words) == (said == 0.03)


@pytest.mark.parametrize("said", [0.007, 0.02, 0.06])
def test_noise_alone_is_as_strong_as_it_looks(said):
    clean = load_photo("chelsea", 128).movedim(-1, 1)
    white = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    blotchy = 3.5 * convolution(kernels.gaussian(1.0), "circular").forward(white)  # of deviation 1 again
    for noise in (white, blotchy):
        image = ((clean + 0.02 * noise).clamp(0, 1) * 255).round() / 255
        measurement = Measurement.observe(Identity(), image, GaussianNoise(said))
        found = as_noisy_as_seen(measurement)
        if noise is white and said != 0.02:
            assert found.noise.level == pytest.approx(0.02, rel=0.15)
        else:
            assert found is measurement


def test_what_is_not_blurred_or_not_noisy_stays():
    clean, blur = load_photo("chelsea", 128).movedim(-1, 1), convolution(kernels.disk(3.0))
    eight_bits = (blur.forward(clean).clamp(0, 1) * 255).round() / 255
    for operator, image in (
        (blur, eight_bits), (Identity(), clean), (convolution(kernels.gaussian(0.5)), clean),
        (compose(RandomPixels(0.5), blur), eight_bits + 0.05 * torch.randn_like(eight_bits)),
    ):  # fmt: skip
        measurement = Measurement.observe(operator, image, GaussianNoise(0.0))
        assert as_noisy_as_seen(measurement) is measurement
