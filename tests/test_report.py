"""What nodes say: in words, with a remedy, with what is to be expected (cases A15, C6, C7 and E1)."""

from __future__ import annotations

import pytest
import torch

from posterior.algebra.streams import Streams
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise, PoissonNoise
from posterior.operators.identity import Identity
from posterior.operators.inpainting import Inpainting
from posterior.operators.jpeg import JPEG
from posterior.photos import load_photo


@pytest.fixture
def report(host):
    from posterior.nodes import report

    return report


def noise_only(sigma: float, noise=None) -> Measurement:
    return Measurement(Identity(), torch.full((1, 3, 64, 64), 0.5), noise or GaussianNoise(sigma))


def test_a_number_is_said_with_its_range_and_a_remedy(report):
    measurement = noise_only(0.02)

    def words(value: float, kind: str, of: Measurement = measurement) -> str:
        return report.fit_in_words(of, torch.tensor([value], dtype=torch.float64), kind)

    assert words(1.02, "sample") == "fit 1.02 (expected for a sample: 0.8 to 1.2): agrees with what was seen."
    assert "agrees" in words(0.72, "restoration") and "lower sigma_y (about 0.014)" in words(0.72, "sample")
    assert "misses what was seen" in words(5.7, "restoration") and "(about 0.11)" in words(5.7, "restoration")
    assert "lower sigma_y (about 0.0038)" in words(0.19, "picture")  # case A15
    assert "about" not in words(5.7, "sample", noise_only(0, PoissonNoise(0.01, 0.01)))  # no single number would do
    assert words(0.01, "restoration", noise_only(0, GaussianNoise(torch.tensor([0.0, 0.1])))).endswith("what was seen.")
    clean = noise_only(0)
    assert (
        words(0.001, "sample", clean) == "residual RMS 0.001 (white is 1): agrees with what was seen, but for rounding."
    )
    assert "raise sigma_y, to about 0.004" in words(0.004, "sample", clean)
    jpeg = Measurement(JPEG(15), clean.y, clean.noise)
    assert "agrees" in words(0.004, "sample", jpeg) and "not quite as described" in words(0.04, "sample", jpeg)
    for of in (measurement, clean):
        greyed = report.fit_in_words(of, torch.tensor([5.0]), "restoration", True)
        assert "left out as asked" in greyed and "sigma_y" not in greyed
    many = report.fit_in_words(measurement, torch.linspace(0.9, 1.1, 9), "sample")
    assert many.startswith("fit 0.9 to 1.1 (")


@pytest.mark.parametrize("lost, asked", [(0.05, False), (0.95, True)])
def test_a_mask_that_hides_nearly_all_is_asked_about(report, lost, asked):
    mask = (torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) < lost).float()
    x = torch.rand(1, 3, 64, 64)
    measurement = Measurement.observe(Inpainting(mask), x, GaussianNoise(0.02))
    said = report.losses_in_words(measurement)
    assert "masked" in said and ("inverted" in said) == asked
    assert report.losses_in_words(noise_only(0.02)) == ""


def test_exact_samples_fit_as_the_truth_does_and_their_mean_fits_better():
    """x ~ N(0.5, 0.1^2), y = x + 0.05 z: what EXPECTED says of samples and means, in closed form (case C7)."""
    x, noise, inner = (Streams(s, "report").normal(torch.zeros(1, 3, 256, 256, dtype=torch.float64)) for s in range(3))
    y = 0.5 + 0.1 * x + 0.05 * noise
    gain = 0.1**2 / (0.1**2 + 0.05**2)
    mean = 0.5 + gain * (y - 0.5)
    measurement = Measurement(Identity(), y, GaussianNoise(0.05))
    assert measurement.fit(mean + (gain**0.5 * 0.05) * inner).item() == pytest.approx(1, abs=0.01)
    assert measurement.fit(mean).item() == pytest.approx((1 - gain) ** 0.5, abs=0.01)


def test_a_fit_does_not_prove_the_operator(host):
    """A blur of 2 pixels, restored with 1, 2 and 3 (case C6): the fit of a wrong one is as good, the picture is not."""
    photo = load_photo("chelsea", 96)
    model = host.call("PosteriorPhotoPrior")

    def blur(sigma: float):
        return host.call("PosteriorGaussianBlur", sigma=sigma)

    seen = host.call("PosteriorSimulate", image=photo, operator=blur(2.0), sigma_y=0.02, seed=0)
    fits, psnr = {}, {}
    print("\nblur  fit   PSNR in dB")
    for sigma in (1.0, 2.0, 3.0):
        measurement = Measurement(blur(sigma), seen.y, seen.noise)
        image, _, fits[sigma], _ = host.call(
            "PosteriorSolve", model=model, measurement=measurement, estimate="restoration", steps=12
        )
        psnr[sigma] = -10 * ((image - photo) ** 2).mean().log10().item()
        print(f"{sigma:4.1f} {fits[sigma]:5.2f} {psnr[sigma]:7.2f}")
    assert sum(0.3 < fit < 1.2 for fit in fits.values()) > 1
    assert psnr[2.0] > max(psnr[1.0], psnr[3.0]) + 0.5
