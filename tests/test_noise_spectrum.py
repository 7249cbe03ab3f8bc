"""Blotches read off a picture, against what was put in."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from posterior.algebra.refusal import Refusal
from posterior.measurement.noise_spectrum import blotches_in, noise_spectrum
from posterior.photos import load_photo


def photo(name: str, size: int = 192) -> Tensor:
    return load_photo(name, size).movedim(-1, 1)


def blotchy(x: Tensor, sigma: float, length: float, white: float = 0.0, seed: int = 0) -> Tensor:
    """With noise that scipy has blurred, in 8 bits."""
    random = np.random.default_rng(seed)
    noise = scipy.ndimage.gaussian_filter(random.standard_normal(x.shape), (0, 0, length, length), mode="wrap")
    noise = sigma * noise / noise.std() + white * random.standard_normal(x.shape)
    return (255 * (x + torch.from_numpy(noise).float()).clamp(0, 1)).round() / 255


LAWS = ((0.08, 1.0, 0.0), (0.04, 1.5, 0.01), (0.06, 2.0, 0.01))
CASES = [(name, *law) for name in ("flat", "rocket") for law in LAWS]


@pytest.mark.parametrize("name, sigma, length, white", [*CASES, ("stream", *LAWS[0])])  # that is texture everywhere
def test_blotches_are_found(name, sigma, length, white):
    clean = torch.full((1, 3, 192, 192), 0.5) if name == "flat" else photo(name)
    found = noise_spectrum(blotchy(clean, sigma, length, white))
    assert found.coloured
    assert found.sigma.median().item() == pytest.approx(sigma, rel=0.2)
    assert found.length.median().item() == pytest.approx(length, rel=0.2)
    assert found.total == pytest.approx((sigma**2 + white**2) ** 0.5, rel=0.2)
    if white:
        assert found.white.median().item() == pytest.approx(white, rel=0.2)


@pytest.mark.parametrize("name", ["rocket", "stream", "coffee", "china"])
def test_clean_and_evenly_noisy_photos_have_none(name):
    clean = photo(name)
    assert not noise_spectrum(clean).coloured
    z = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    found = noise_spectrum((clean + 0.05 * z).clamp(0, 1))
    assert not found.coloured


def test_a_batch_has_a_spectrum_for_each_and_colours_their_own():
    flat = torch.full((1, 3, 96, 96), 0.5)
    two = torch.cat([blotchy(flat, 0.08, 1.0), blotchy(flat, 0.04, 1.5)])
    noise = blotches_in(two)
    assert noise.spectrum.shape == two.shape
    assert noise.sigma[:, :, 0, 0].mean(1).tolist() == pytest.approx([0.08, 0.04], rel=0.2)
    assert blotches_in(torch.cat([two, flat])) is None
    grey = blotchy(flat[:, :1], 0.08, 1.0)
    assert blotches_in(grey).spectrum.shape == grey.shape


def test_small_pictures_are_refused():
    with pytest.raises(Refusal, match="at least 64 x 64"):
        noise_spectrum(torch.rand(1, 3, 32, 80))
