"""Noise models, measurements, whitening, and the estimate of a noise level."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from torch import Tensor

from posterior.algebra.refusal import Refusal
from posterior.diffusion.level import Level
from posterior.diffusion.state import State
from posterior.guidance.diffpir import DiffPIR
from posterior.measurement.measurement import Measurement, combine
from posterior.measurement.noise import ROUNDING, GaussianNoise, Noise, PoissonNoise
from posterior.measurement.noise_level import noise_level
from posterior.measurement.whiteness import whiteness
from posterior.operators.convolution import CircularConvolution
from posterior.operators.downscale import downscale
from posterior.operators.identity import Identity, Scale
from posterior.operators.inpainting import Inpainting
from posterior.operators.kernels import gaussian
from posterior.operators.phase_retrieval import PhaseRetrieval
from posterior.operators.pointwise import Saturation
from posterior.operators.spectral import SpectralOperator
from posterior.photos import PHOTOS, load_photo

F64 = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


MODELS: list[tuple[str, Noise]] = [
    ("gaussian", GaussianNoise(0.1)),
    ("gaussian map", GaussianNoise(0.05 + draw(1, 1, 40, 50, seed=1) / 4)),
    ("poisson", PoissonNoise(0.02)),
    ("poisson and read-out", PoissonNoise(0.02, 0.05)),
]
models = pytest.mark.parametrize("noise", [noise for _, noise in MODELS], ids=[name for name, _ in MODELS])


@models
def test_samples_have_the_stated_moments(noise: Noise) -> None:
    clean = 0.1 + draw(8, 3, 40, 50)
    z = (noise.sample(clean, 5) - clean) / noise.deviation(clean)
    n = z.numel()
    assert abs(z.mean().item()) < 5 / n**0.5
    assert z.square().mean().item() == pytest.approx(1, abs=5 * (2.2 / n) ** 0.5)


@models
def test_score_is_the_gradient_of_the_likelihood(noise: Noise) -> None:
    clean = (0.1 + draw(2, 3, 40, 50)).requires_grad_()
    y = noise.sample(clean.detach(), 1)
    (expected,) = torch.autograd.grad(noise.log_likelihood(y - clean, y).sum(), clean)
    assert torch.allclose(noise.score(y - clean, y), expected)


def test_poisson_likelihood_is_scipys() -> None:
    """Differences of log p at one y, which do not know the constant."""
    noise, a, b = PoissonNoise(0.05), 0.2 + draw(1, 1, 5, 6), 0.2 + draw(1, 1, 5, 6, seed=1)
    y = noise.sample(a, 3)
    counts = (y / 0.05).round().numpy()
    expected = scipy.stats.poisson.logpmf(counts, a / 0.05).sum() - scipy.stats.poisson.logpmf(counts, b / 0.05).sum()
    ours = noise.log_likelihood(y - a, y) - noise.log_likelihood(y - b, y)
    assert ours.item() == pytest.approx(expected, rel=1e-9)


@models
def test_a_seed_is_a_picture_and_each_sample_has_its_own(noise: Noise) -> None:
    clean = draw(1, 3, 40, 50).expand(3, -1, -1, -1)
    y = noise.sample(clean, 7)
    assert torch.equal(y, noise.sample(clean, 7)) and not torch.equal(y, noise.sample(clean, 8))
    assert not torch.equal(y[0], y[1]) and torch.equal(y[:2], noise.sample(clean[:2], 7))


@models
def test_fit_of_the_truth_is_one(noise: Noise) -> None:
    x = 0.1 + draw(2, 3, 40, 50)
    hole = (draw(1, 1, 40, 50, seed=3) > 0.5).double()
    for operator in (Identity(), Inpainting(hole), CircularConvolution(gaussian(1.0).double())):
        measurement = Measurement.simulate(operator, x, noise, 1)
        assert torch.allclose(measurement.fit(x), torch.ones(2, dtype=F64), atol=0.08)
        assert (measurement.fit(x + 0.3) > 1.5).all()
        whitened = measurement.whitened()
        if isinstance(noise, GaussianNoise):
            assert torch.allclose(whitened.fit(x), measurement.fit(x))


def test_a_clean_measurement_fits_exactly_or_not_at_all() -> None:
    x, hole = draw(2, 3, 8, 9), (draw(1, 1, 8, 9, seed=3) > 0.5).double()
    measurement = Measurement.simulate(Inpainting(hole), x, GaussianNoise(0.0), 1)
    assert torch.equal(measurement.fit(x), torch.zeros(2, dtype=F64))
    assert torch.equal(measurement.fit(x + 0.1), torch.full((2,), torch.inf, dtype=F64))
    assert not measurement.noisy


def test_no_pixel_of_an_uneven_measurement_counts_as_known_better_than_8_bits() -> None:
    x, hole = draw(1, 3, 8, 9), torch.linspace(0, 0.9, 72, dtype=F64).reshape(1, 1, 8, 9)
    measurement = Measurement.observe(Inpainting(hole, 0.5, doubt=2.0), x, GaussianNoise(0.0))
    off = ROUNDING * (draw(1, 3, 8, 9, seed=1) - 0.5)
    assert torch.allclose(measurement.fit(x + off), measurement.whitened().fit(x + off))
    assert 0 < measurement.fit(x + off) < 1 and whiteness(measurement, x + off).p_value.isfinite().all()


@pytest.mark.parametrize("kind", ["mask", "box", "blur"])
def test_whitened_prox_is_the_weighted_least_squares(kind: str) -> None:
    """Against dense algebra: argmin norm(W (A x - y))^2 / 2 + rho norm(x - z)^2 / 2."""
    shape = (1, 6, 8)
    operator = {
        "mask": lambda: Inpainting((draw(1, 1, 6, 8, seed=2) > 0.6).double()),
        "box": lambda: downscale(2, "box"),
        "blur": lambda: CircularConvolution(gaussian(0.5).double().narrow(2, 0, 5)),
    }[kind]()
    side = operator.measurement_shape(shape)
    noise = GaussianNoise(0.02 + draw(1, *side, seed=3) / 5)
    x, z, rho = draw(1, *shape), draw(1, *shape, seed=4), 7.0
    measurement = Measurement.simulate(operator, x, noise, 1)
    whitened = measurement.whitened()
    assert whitened.noise.sigma == 1 and isinstance(whitened.operator, SpectralOperator) == (kind != "blur")
    A = operator.forward(torch.eye(48, dtype=F64).reshape(48, *shape)).flatten(1).T
    P = torch.diag(1 / noise.sigma.flatten() ** 2)
    y = measurement.y.flatten()
    expected = torch.linalg.solve(A.T @ P @ A + rho * torch.eye(48, dtype=F64), A.T @ P @ y + rho * z.flatten())
    ours = whitened.operator.prox(z, whitened.y, rho).flatten()
    assert torch.allclose(ours, expected, atol=1e-6)
    # and a guidance block that knows one level only gets it so
    block = DiffPIR(measurement)
    state = State(z, Level(1.0, 1 / 7.0**0.5), z)
    assert torch.allclose(block.estimate(state, z).x0.flatten(), expected, atol=1e-6)


def test_poisson_is_whitened_with_the_deviation_of_y() -> None:
    measurement = Measurement.simulate(Identity(), 0.2 + draw(1, 3, 9, 8), PoissonNoise(0.01, 0.02), 1)
    expected = measurement.y / (0.01 * measurement.y.clamp_min(0.01) + 0.02**2).sqrt()
    assert torch.allclose(measurement.whitened().y, expected)


def test_one_level_is_left_alone() -> None:
    measurement = Measurement.simulate(Identity(), draw(1, 3, 9, 8), GaussianNoise(0.1), 1)
    assert measurement.whitened() is measurement


def test_soft_edges_are_noisier_not_fainter() -> None:
    hole = torch.zeros(1, 1, 4, 6, dtype=F64)
    hole[..., 2], hole[..., 3:] = 0.2, 1.0
    x = draw(1, 3, 4, 6)
    measurement = Measurement.observe(Inpainting(hole, threshold=0.5, doubt=0.5), x, GaussianNoise(0.03))
    assert torch.equal(measurement.y[..., :3], x[..., :3]) and (measurement.y[..., 3:] == 0).all()
    sigma = measurement.noise.sigma.expand(x.shape)
    assert torch.allclose(sigma[..., :2], torch.full((1,), 0.03, dtype=F64))
    assert torch.allclose(sigma[..., 2], torch.tensor((0.03**2 + 0.1**2) ** 0.5, dtype=F64))
    clean = Measurement.observe(Inpainting(hole, threshold=0.5, doubt=0.5), x, GaussianNoise(0.0)).whitened()
    assert clean.operator.singular_values(x)[0, 0, 0, 0].item() == pytest.approx(1 / ROUNDING)


def test_combined_measurements() -> None:
    x = draw(2, 3, 8, 10)
    short = Measurement.simulate(Scale(0.25), x, GaussianNoise(0.05), 1)
    blurred = Measurement.simulate(CircularConvolution(gaussian(0.5).double()), x, GaussianNoise(0.01), 2)
    both = combine([short, blurred])
    assert both.image_shape == (3, 8, 10) and both.operator.linear
    expected = (short.fit(x) ** 2 + blurred.fit(x) ** 2) / 2
    assert torch.allclose(both.fit(x) ** 2, expected)
    # two looks with one noise level stay one level, and their joint estimate is the precision-weighted mean
    a, b = (Measurement.simulate(Scale(s), x, GaussianNoise(0.1), i) for i, s in enumerate((1.0, 0.5)))
    same = combine([a, b])
    assert same.noise == GaussianNoise(0.1)
    assert torch.allclose(same.operator.pinv(same.y), (a.y + 0.5 * b.y) / 1.25, atol=1e-6)
    exposures = combine([Measurement.simulate(Saturation(g), x, GaussianNoise(0.01), i) for i, g in enumerate((1, 2))])
    assert not exposures.operator.linear and exposures.picture().shape == (2, 3, 8, 20)
    with pytest.raises(Refusal, match="give the same number to each"):
        combine([a, Measurement.simulate(Scale(1.0), draw(3, 3, 8, 10), GaussianNoise(0.1), 1)])


def test_residual_pictures() -> None:
    x = draw(1, 3, 8, 10)
    measurement = Measurement.simulate(Identity(), x, GaussianNoise(0.05), 1)
    view = measurement.residual_picture(measurement.y - 0.1)  # two of the four deviations
    assert torch.allclose(view, torch.full_like(view, 0.75))
    phases = Measurement.simulate(PhaseRetrieval(), x, GaussianNoise(0.05), 1)
    assert phases.residual_picture(x).shape == (1, 3, 16, 20)


@pytest.mark.parametrize("sigma", [0.01, 0.02, 0.05, 0.1, 0.2])
def test_noise_level_of_photos(sigma: float) -> None:
    """Within 15 % on all photos, from 0.01 up; at 512 pixels, where they have smooth parts at that level."""
    names = [name for name in PHOTOS if name != "stream" or sigma > 0.02]  # water and leaves in every block
    for name in names if sigma == 0.01 else names[::2]:
        x = load_photo(name, 512).movedim(-1, 1)
        y = GaussianNoise(sigma).sample(x, 1)
        assert noise_level(y).item() == pytest.approx(sigma, rel=0.15), name
        if sigma <= 0.1:  # an 8-bit file, cut at black and white
            assert noise_level((y.clamp(0, 1) * 255).round() / 255).item() == pytest.approx(sigma, rel=0.15), name


def test_noise_level_of_a_batch() -> None:
    x = load_photo("coffee", 128).movedim(-1, 1)
    batch = torch.cat([GaussianNoise(s).sample(x, 1) for s in (0.05, 0.2)])
    levels = noise_level(batch)
    assert torch.equal(levels[1:], noise_level(batch[1:])) and levels[1] > 2 * levels[0]
    with pytest.raises(Refusal, match="at least 64 x 64"):
        noise_level(x[..., :40])
