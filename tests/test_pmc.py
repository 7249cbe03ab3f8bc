"""PMC: its stationary law against the closed form of its own recursion, the posterior as the limit, a transcription."""

from __future__ import annotations

import math

import pytest
import torch
from guidance_rows import F64, matrices, measure, one_thread, random_prior  # noqa: F401
from torch import Tensor

from posterior.algebra.streams import Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.diffusion.schedule import Schedule
from posterior.guidance.base import Guidance
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.dense import Dense
from posterior.priors.mixture import GaussianMixture
from posterior.samplers.pmc import PMC

EYE = torch.eye(16, dtype=F64)


def stationary(step: Tensor, h: float) -> Tensor:
    """The covariance of x -> step x + sqrt(2 h) n, from C = step C step^T + 2 h I."""
    system = torch.eye(256, dtype=F64) - torch.kron(step, step)
    return torch.linalg.solve(system, 2 * h * EYE.flatten()).reshape(16, 16)


@pytest.mark.parametrize("schedule", [Schedule(), Schedule("flow")], ids=["exploding", "flow"])
@pytest.mark.parametrize("order", ["RED", "PnP"])
def test_the_stationary_law(order, schedule):
    """Of a Gaussian, at one level, with its step: mean and variance within five standard errors."""
    prior, matrix, sigma, level, h, count = random_prior(4), matrices(4)["random"], 0.5, 0.4, 0.05, 3000
    measurement = measure(prior, matrix, sigma)
    score = torch.linalg.inv(prior.covariance() + level**2 * EYE)
    data = matrix.T @ matrix / sigma**2
    seen = EYE - h * data if order == "PnP" else EYE
    covariance = stationary(EYE - h * data - h * score @ seen, h)
    pull = matrix.T @ measurement.y[0] / sigma**2
    moved = h * pull if order == "PnP" else torch.zeros(16, dtype=F64)
    mean = torch.linalg.solve(data + score @ seen, pull + score @ (prior.mean.flatten() - moved))
    start = torch.randn(count, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(3))
    levels = [schedule.at(level), Level(1.0, 0.0)]
    run = Run(prior.denoiser, levels, [Guidance(measurement)], Streams(4, "sampling"), schedule=schedule)
    x = PMC(order, 400, 0.0, rate=h)(run, start).flatten(1)
    variance = covariance.diag()
    assert ((x.mean(0) - mean).abs() < 5 * (variance / count).sqrt()).all()
    assert ((x.var(0) / variance - 1).abs() < 5 * (2 / count) ** 0.5).all()


@pytest.mark.parametrize("order", ["RED", "PnP"])
def test_the_weights_of_a_mixture(order):
    """Annealed far enough, within 5 %; the variances within a tenth."""
    centres = torch.tensor([[1.0, 0.5], [-1.0, 1.0], [0.2, -1.3]], dtype=F64).reshape(3, 1, 1, 2)
    prior = GaussianMixture.from_centres(centres, 0.5, torch.tensor([0.5, 0.2, 0.3], dtype=F64))
    operator = Dense(torch.tensor([[1.0, 0.3]], dtype=F64), (1, 1, 2))
    measurement = Measurement(operator, torch.tensor([[-0.2]], dtype=F64), GaussianNoise(0.5))
    posterior, count = prior.posterior(measurement), 4000
    levels = [*(Level(1.0, 0.1 * 1.2**k) for k in range(20, -1, -1)), Level(1.0, 0.0)]
    start = torch.randn(count, 1, 1, 2, dtype=F64, generator=torch.Generator().manual_seed(3))
    run = Run(prior.denoiser, levels, [Guidance(measurement)], Streams(4, "sampling"))
    x = PMC(order, 100, 0.0, size=0.1)(run, levels[0].sigma * start)
    found = posterior.responsibilities(x, Level(1.0, 0.0)).mean(0)
    assert (found - posterior.weights).abs().max() < 0.05
    assert (x.flatten(1).T.cov().diag() / posterior.covariance().diag() - 1).abs().max() < 0.1


def published(order: str, matrix: Tensor, y: Tensor, prior, sigmas: list[float], x: Tensor, noise) -> Tensor:
    """Algorithms 1 and 2 of PMC, annealed: pictures in [-1, 1], alpha 50, step 1e-3, sigma_y 0.2, 7 turns a level."""
    for sigma in sigmas:
        a, rate = max(50 * sigma**2, 1.0), 1e-3
        for _ in range(7):
            gradient = ((x.flatten(1) @ matrix.T - y) @ matrix).reshape(x.shape) / 0.2**2
            z = x - rate * gradient if order == "PnP" else x
            score = (prior.denoiser(z, Level(1.0, sigma)) - z) / sigma**2
            x = x - rate * (gradient - a * score) + math.sqrt(2 * rate) * noise()
    return x


@pytest.mark.parametrize("order", ["RED", "PnP"])
def test_the_published_trajectory(order):
    prior = GaussianMixture([random_prior(4, seed) for seed in (0, 1, 2)], torch.tensor([0.5, 0.3, 0.2], dtype=F64))
    matrix, sigmas = matrices(4)["random"], [5.0, 2.0, 0.8, 0.3, 0.1]
    y = prior.sample(1, 4).flatten(1) @ matrix.T
    start = 5.0 * torch.randn(2, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(6))
    draws = Streams(8, "sampling", 2)
    first = prior.denoiser(start, Level(1.0, 5.0))  # where ours starts
    theirs = published(order, matrix, y, prior, sigmas, first, lambda: draws.normal(start))
    measurement = Measurement(Dense(matrix, (1, 4, 4)), (y + matrix.sum(1)) / 2, GaussianNoise(0.1))
    levels = [*(Level(1.0, sigma / 2, 2.0) for sigma in sigmas), Level(1.0, 0.0, 2.0)]

    def denoiser(u: Tensor, t: Level) -> Tensor:
        return (prior.denoiser(2 * u - 1, Level(1.0, 2 * t.sigma)) + 1) / 2

    run = Run(denoiser, levels, [Guidance(measurement)], Streams(8, "sampling", 2))
    ours = 2 * PMC(order, 7, 50.0, rate=1e-3)(run, (start + 1) / 2) - 1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
