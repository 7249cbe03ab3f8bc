"""Noise that a blurred photo shows, against what was put in."""

from __future__ import annotations

import pytest
import torch

from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.measurement.seen_noise import as_noisy_as_seen
from posterior.operators import kernels
from posterior.operators.compose import compose
from posterior.operators.convolution import convolution
from posterior.operators.identity import Identity
from posterior.operators.inpainting import RandomPixels
from posterior.photos import load_photo


@pytest.mark.parametrize("kernel", [kernels.disk(3.0), kernels.camera_shake(9, 1)], ids=["symmetric", "any"])
@pytest.mark.parametrize("said, raised", [(0.0, True), (0.003, True), (0.01, False), (0.03, False)])
def test_a_blurred_photo_is_as_noisy_as_it_looks(kernel, said, raised):
    clean, blur = load_photo("chelsea", 128).movedim(-1, 1), convolution(kernel)
    image = Measurement.simulate(blur, clean, GaussianNoise(0.01), 1).y.clamp(0, 1)
    measurement = Measurement.observe(blur, image, GaussianNoise(said))
    found = as_noisy_as_seen(measurement)
    assert found.noise.level == pytest.approx(0.01, rel=0.2) if raised else found is measurement


def test_what_is_not_blurred_or_not_noisy_stays():
    clean, blur = load_photo("chelsea", 128).movedim(-1, 1), convolution(kernels.disk(3.0))
    eight_bits = (blur.forward(clean).clamp(0, 1) * 255).round() / 255
    for operator, image in (
        (blur, eight_bits), (Identity(), clean), (convolution(kernels.gaussian(0.5)), clean),
        (compose(RandomPixels(0.5), blur), eight_bits + 0.05 * torch.randn_like(eight_bits)),
    ):  # fmt: skip
        measurement = Measurement.observe(operator, image, GaussianNoise(0.0))
        assert as_noisy_as_seen(measurement) is measurement
