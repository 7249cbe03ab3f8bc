"""The closed forms of the Gaussian priors and mixtures against dense linear algebra, quadrature and autograd."""

from __future__ import annotations

import math

import pytest
import torch

from posterior.diffusion.level import Level
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.convolution import CircularConvolution
from posterior.operators.inpainting import Inpainting
from posterior.priors.gaussian import Gaussian, StationaryGaussian, dense_matrix, periodic_component
from posterior.priors.mixture import GaussianMixture

SHAPE = (2, 4, 6)
SIZE = math.prod(SHAPE)
LEVELS = [Level(1.0, 0.3), Level(0.4, 0.9), Level(0.9, 1e-3)]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(kind: str):
    mean = randn(*SHAPE, seed=1)
    if kind == "dense":
        root = randn(SIZE, SIZE, seed=2) / 4
        return Gaussian.from_covariance(mean, root @ root.T + 0.05 * torch.eye(SIZE))
    if kind == "low rank":
        return Gaussian.from_pictures(randn(7, *SHAPE, seed=3), 0.2)
    if kind == "isotropic":
        return Gaussian.isotropic(mean, 0.7)
    return StationaryGaussian.from_texture(randn(SHAPE[0], 4, 6, seed=4), floor=0.2)


PRIORS = ["dense", "low rank", "isotropic", "stationary"]


def measure(prior, kind: str, sigma: float) -> Measurement:
    if kind == "inpainting":
        operator = Inpainting((randn(1, 1, *SHAPE[1:], seed=5) > 0).double())
    else:
        operator = CircularConvolution(randn(1, 1, 3, 3, seed=6))
    return Measurement.simulate(operator, prior.sample(1, 9), GaussianNoise(sigma), 3)


@pytest.mark.parametrize("kind", PRIORS)
@pytest.mark.parametrize("level", LEVELS)
def test_denoiser_and_density_are_those_of_the_dense_gaussian(kind, level):
    prior = make(kind)
    covariance = prior.covariance()
    assert torch.allclose(covariance, covariance.T, atol=1e-12)
    total = level.alpha**2 * covariance + level.sigma**2 * torch.eye(SIZE, dtype=torch.float64)
    x_t = randn(3, *SHAPE, seed=7)
    offset = (x_t - level.alpha * prior.mean).flatten(1)
    dense = prior.mean.flatten() + level.alpha * offset @ torch.linalg.solve(total, covariance)
    assert torch.allclose(prior.denoiser(x_t, level).flatten(1), dense, rtol=1e-8, atol=1e-8)
    density = torch.distributions.MultivariateNormal(level.alpha * prior.mean.flatten(), total)
    assert torch.allclose(prior.log_prob(x_t, level), density.log_prob(x_t.flatten(1)), rtol=1e-6)


@pytest.mark.parametrize("kind", [*PRIORS, "mixture"])
def test_denoiser_obeys_tweedie(kind):
    mixture = GaussianMixture([make(k) for k in PRIORS], torch.tensor([1.0, 2, 3, 4]))
    prior = mixture if kind == "mixture" else make(kind)
    level = Level(0.8, 0.6)
    x_t = randn(2, *SHAPE, seed=8).requires_grad_()
    (score,) = torch.autograd.grad(prior.log_prob(x_t, level).sum(), x_t)
    tweedie = (x_t + level.sigma**2 * score) / level.alpha
    assert torch.allclose(prior.denoiser(x_t, level), tweedie, atol=1e-10)
    assert torch.autograd.gradcheck(lambda x: prior.denoiser(x, level), x_t[:1].detach().requires_grad_())


@pytest.mark.parametrize("kind", PRIORS)
@pytest.mark.parametrize("operator", ["inpainting", "blur"])
@pytest.mark.parametrize("sigma", [0.3, 0.0])
def test_posterior_is_the_joint_gaussian_conditioned(kind, operator, sigma):
    prior = make(kind)
    measurement = measure(prior, operator, sigma)
    posterior = prior.posterior(measurement)
    matrix = dense_matrix(measurement.operator, SHAPE, prior.mean)
    y = measurement.y.flatten()
    if sigma:  # information form, which shares no formula with the gain form
        precision = torch.linalg.inv(prior.covariance())
        covariance = torch.linalg.inv(precision + matrix.T @ matrix / sigma**2)
        mean = covariance @ (precision @ prior.mean.flatten() + matrix.T @ y / sigma**2)
        assert torch.allclose(posterior.mean.flatten(), mean, atol=1e-8)
        assert torch.allclose(posterior.covariance(), covariance, atol=1e-8)
    else:  # a clean measurement is met exactly, and nothing measured is uncertain
        assert torch.allclose(matrix @ posterior.mean.flatten(), y, atol=1e-6)
        assert (matrix @ posterior.covariance() @ matrix.T).abs().max() < 1e-6


@pytest.mark.parametrize("kind", PRIORS)
def test_evidence_is_the_ratio_of_joint_and_posterior(kind):
    prior = make(kind)
    measurement = measure(prior, "blur", 0.3)
    posterior, x = prior.posterior(measurement), prior.sample(1, 1)
    clean = Level(1.0, 0.0)
    residual = measurement.residual(x)
    likelihood = measurement.noise.log_likelihood(residual) - residual.numel() * math.log(0.3 * math.sqrt(2 * math.pi))
    joint = prior.log_prob(x, clean) + likelihood
    assert torch.allclose(prior.log_evidence(measurement), joint - posterior.log_prob(x, clean), atol=1e-6)


def test_samples_have_the_moments():
    for prior in (make("stationary"), GaussianMixture([make("dense"), make("low rank")], torch.tensor([0.3, 0.7]))):
        draws = prior.sample(4000, 0).flatten(1)
        covariance = prior.covariance()
        spread = covariance.diagonal().max()
        assert (draws.mean(0) - prior.mean.flatten()).abs().max() < 4.5 * (spread / 4000).sqrt()
        assert (draws.T.cov() - covariance).abs().max() < 6 * spread * math.sqrt(2 / 4000)
        assert torch.allclose(prior.sample(2, 0)[1], prior.sample(5, 0)[1])


def test_mixture_posterior_against_quadrature():
    """Two pixels, one of them measured: p(x given y) on a grid is prior times likelihood, normalised."""
    centres = torch.tensor([[-1.0, 1.0], [1.0, -0.5], [0.8, 0.9]], dtype=torch.float64).reshape(3, 1, 1, 2)
    mixture = GaussianMixture.from_centres(centres, 0.4, torch.tensor([0.2, 0.5, 0.3]))
    hole = torch.tensor([[[[0.0, 1.0]]]], dtype=torch.float64)
    measurement = Measurement.observe(
        Inpainting(hole), torch.tensor([[[[0.7, 0.0]]]], dtype=torch.float64), GaussianNoise(0.3)
    )
    posterior = mixture.posterior(measurement)
    line = torch.linspace(-4, 4, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    prior = sum(
        w * torch.exp(-((grid - c.flatten()) ** 2).sum(1) / (2 * 0.16)) / (2 * math.pi * 0.16)
        for w, c in zip((0.2, 0.5, 0.3), centres, strict=True)
    )
    joint = prior * torch.exp(-((0.7 - grid[:, 0]) ** 2) / (2 * 0.09)) / math.sqrt(2 * math.pi * 0.09)
    cell = (line[1] - line[0]) ** 2
    assert math.isclose(mixture.log_evidence(measurement).exp(), (joint.sum() * cell).item(), rel_tol=1e-8)
    weights = joint / joint.sum()
    mean = weights @ grid
    assert torch.allclose(posterior.mean.flatten(), mean, atol=1e-8)
    assert torch.allclose(posterior.covariance(), (weights[:, None] * (grid - mean)).T @ (grid - mean), atol=1e-8)


def test_texture_is_the_periodic_autocorrelation():
    """C between two pixels of the torus is the periodic autocorrelation of the picture, by brute force."""
    picture = periodic_component(randn(2, 3, 4, seed=4))
    prior = StationaryGaussian.from_texture(picture)
    u = periodic_component(picture - picture.mean((1, 2), keepdim=True))
    covariance = prior.covariance().reshape(2, 3, 4, 2, 3, 4)
    for a in range(2):
        for b in range(2):
            for shift in [(0, 0), (1, 0), (2, 3)]:
                # Cov[x_a(p + shift), x_b(p)] = mean over q of u_a(q + shift) u_b(q)
                expected = (u[a].roll((-shift[0], -shift[1]), (0, 1)) * u[b]).mean()
                assert torch.allclose(covariance[a, shift[0], shift[1], b, 0, 0], expected, atol=1e-12)


def test_texture_at_another_size_keeps_its_variance():
    picture = randn(3, 12, 10, seed=1)
    small = StationaryGaussian.from_texture(picture)
    large = StationaryGaussian.from_texture(picture, (24, 16))
    assert large.sample(1, 0).shape == (1, 3, 24, 16)
    assert torch.allclose(small.trace(lambda v: v) / 120, large.trace(lambda v: v) / 384, rtol=1e-10)
    assert StationaryGaussian.from_texture(picture, (8, 16)).sample(1, 0).shape == (1, 3, 8, 16)


def test_periodic_component_has_no_seam():
    ramp = torch.linspace(0, 1, 16, dtype=torch.float64).expand(1, 8, 16)
    seam = (periodic_component(ramp)[0, :, 0] - periodic_component(ramp)[0, :, -1]).abs().max()
    assert seam < 0.1
