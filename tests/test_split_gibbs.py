"""Split Gibbs sampling against the exact posterior of a Gaussian and of a mixture."""

from __future__ import annotations

import math

import pytest
import torch
from guidance_rows import F64, matrices, measure, one_thread, random_prior  # noqa: F401
from torch import Tensor

from posterior.algebra.streams import Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.diffusion.schedule import AXES, Schedule
from posterior.guidance.base import Guidance
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.base import Operator
from posterior.operators.dense import Dense
from posterior.operators.jpeg import JPEG
from posterior.operators.phase_retrieval import CodedDiffraction
from posterior.priors.gaussian import Gaussian
from posterior.priors.mixture import GaussianMixture
from posterior.samplers.likelihood_chain import Chain
from posterior.samplers.maruyama import EulerMaruyama
from posterior.samplers.split_gibbs import SplitGibbs, likelihood_draw


@pytest.mark.parametrize("kind", ["mask", "blur", "random"])
def test_the_likelihood_draw_has_its_mean_and_covariance(kind):
    """N(m, P^-1) with P = A^T A / sigma_y^2 + I / rho^2 and m = P^-1 (A^T y / sigma_y^2 + x / rho^2)."""
    prior, matrix, rho, sigma = random_prior(4), matrices(4)[kind], 0.7, 0.3
    measurement, x, count = measure(prior, matrix, sigma), prior.sample(1, 2), 20000
    z = likelihood_draw(measurement, x.expand(count, -1, -1, -1), rho, Streams(1, "test")).flatten(1)
    covariance = torch.linalg.inv(matrix.T @ matrix / sigma**2 + torch.eye(16, dtype=F64) / rho**2)
    mean = covariance @ (matrix.T @ measurement.y[0] / sigma**2 + x.flatten() / rho**2)
    # five standard errors of a mean and of a variance
    assert ((z.mean(0) - mean).abs() < 5 * (covariance.diag() / count).sqrt()).all()
    assert (z.T.cov() - covariance).abs().max() < 5 * (2 / count) ** 0.5 * covariance.diag().max()


@pytest.mark.parametrize("schedule", [Schedule(), Schedule("flow")], ids=["exploding", "flow"])
@pytest.mark.parametrize("kind", ["mask", "random"])
def test_the_chain_s_law_is_the_posterior_seen_through_rho(kind, schedule):
    """x ~ p(x) N(y; A x, sigma_y^2 I + rho^2 A A^T), which is the posterior as rho falls."""
    prior, matrix, count, sigma, rho = random_prior(4), matrices(4)[kind], 4000, 0.3, 0.4
    measurement = measure(prior, matrix, sigma)
    factor = torch.linalg.cholesky(sigma**2 * torch.eye(len(matrix), dtype=F64) + rho**2 * matrix @ matrix.T)
    white = [torch.linalg.solve_triangular(factor, part, upper=False) for part in (matrix, measurement.y.T)]
    law = prior.posterior(Measurement(Dense(white[0], (1, 4, 4)), white[1].T, GaussianNoise(1.0)))
    levels = [*(schedule.at(ratio) for ratio in (4.0, 1.0, rho)), Level(1.0, 0.0)]
    start = torch.randn(count, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(3))
    run = Run(prior.denoiser, levels, [Guidance(measurement)], Streams(4, "sampling"), schedule=schedule)
    x = SplitGibbs(inner=16, hold=20)(run, levels[0].sigma * start).flatten(1)
    variance = law.covariance().diag()
    # five standard errors, and the bias of sixteen steps
    assert ((x.mean(0) - law.mean.flatten()).abs() < (5 * count**-0.5 + 0.02) * variance.sqrt()).all()
    assert ((x.var(0) / variance - 1).abs() < 5 * (2 / count) ** 0.5 + 0.03).all()


def published(matrix: Tensor, y: Tensor, prior: GaussianMixture, rhos: list[float], x: Tensor, noise) -> Tensor:
    """Algorithm 1 of PnP-DM in [-1, 1], sigma_y 0.2: 6 Euler steps of the EDM reverse SDE, then the Gaussian draw."""
    for k, rho in enumerate(rhos):
        if k:
            # their order of the two draws is free; measurement first
            n = noise(y.expand(2, -1))
            right = (y + 0.2 * n) @ matrix / 0.2**2 + (x + rho * noise(x)).flatten(1) / rho**2
            system = matrix.T @ matrix / 0.2**2 + torch.eye(16, dtype=F64) / rho**2
            x = torch.linalg.solve(system, right.T).T.reshape(x.shape)
        last = min(0.02, rho / 10)
        walk = [(rho ** (1 / 7) + i / 5 * (last ** (1 / 7) - rho ** (1 / 7))) ** 7 for i in range(6)]
        for now, then in zip(walk, [*walk[1:], 0.0], strict=True):
            score = (prior.denoiser(x, Level(1.0, now)) - x) / now**2
            if then:
                x = x + 2 * now * (now - then) * score + math.sqrt(2 * now * (now - then)) * noise(x)
            else:
                x = x + now**2 * score
    return x


def test_the_published_trajectory():
    """An independent transcription in [-1, 1] with the same noise, ours in [0, 1]."""
    prior = GaussianMixture([random_prior(4, seed) for seed in (0, 1, 2)], torch.tensor([0.5, 0.3, 0.2], dtype=F64))
    matrix, rhos = matrices(4)["random"], [5.0, 2.0, 0.8, 0.3]
    y = prior.sample(1, 4).flatten(1) @ matrix.T
    start = 5.0 * torch.randn(2, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(6))
    theirs = published(matrix, y, prior, rhos, start, Streams(8, "sampling", 2).normal)
    measurement = Measurement(Dense(matrix, (1, 4, 4)), (y + matrix.sum(1)) / 2, GaussianNoise(0.1))
    levels = [*(Level(1.0, rho / 2, 2.0) for rho in rhos), Level(1.0, 0.0, 2.0)]

    def denoiser(u: Tensor, t: Level) -> Tensor:
        return (prior.denoiser(2 * u - 1, Level(1.0, 2 * t.sigma)) + 1) / 2

    run = Run(denoiser, levels, [Guidance(measurement)], Streams(8, "sampling", 2))
    ours = 2 * SplitGibbs(6, 0, solver=EulerMaruyama(AXES["VE"]))(run, (start + 1) / 2) - 1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_weights_of_a_mixture():
    """Their error falls with the turns, to less than 5 %: the modes lie three deviations apart."""
    centres = torch.tensor([[1.0, 0.5], [-1.0, 1.0], [0.2, -1.3]], dtype=F64).reshape(3, 1, 1, 2)
    prior = GaussianMixture.from_centres(centres, 0.5, torch.tensor([0.5, 0.2, 0.3], dtype=F64))
    operator = Dense(torch.tensor([[1.0, 0.3]], dtype=F64), (1, 1, 2))
    measurement = Measurement(operator, torch.tensor([[-0.2]], dtype=F64), GaussianNoise(0.5))
    posterior, count, errors = prior.posterior(measurement), 4000, []
    start = torch.randn(count, 1, 1, 2, dtype=F64, generator=torch.Generator().manual_seed(3))
    levels = [*(Level(1.0, 0.2 * 1.6**k) for k in range(8, -1, -1)), Level(1.0, 0.0)]
    for hold in (0, 15, 80):
        run = Run(prior.denoiser, levels, [Guidance(measurement)], Streams(4, "sampling"))
        x = SplitGibbs(inner=16, hold=hold)(run, levels[0].sigma * start)
        found = posterior.responsibilities(x, Level(1.0, 0.0)).mean(0)
        errors.append((found - posterior.weights).abs().max().item())
    turns = [len(levels) - 1 + hold for hold in (0, 15, 80)]
    slope = math.log(errors[2] / errors[0]) / math.log(turns[2] / turns[0])
    assert errors[0] > errors[1] > errors[2] and slope < -0.3
    assert errors[2] < 0.05


class Square(Operator):
    """y = x^2."""

    def forward(self, x: Tensor) -> Tensor:
        return x**2


@pytest.mark.parametrize("kernel", ["HMC", "MALA"])
def test_the_law_where_the_damage_is_not_linear(kernel):
    """x ~ p(x) integral p(y given z) N(z; x, rho^2) dz for y = z^2 and a mixture, by quadrature: two signs."""
    centres = torch.tensor([-1.0, 0.7], dtype=F64).reshape(2, 1, 1, 1)
    prior = GaussianMixture.from_centres(centres, 0.4, torch.tensor([0.35, 0.65], dtype=F64))
    y, sigma, rho, count = 0.6, 0.3, 0.25, 4000
    grid = torch.linspace(-3, 3, 1201, dtype=F64)
    given = (-((y - grid**2) ** 2) / (2 * sigma**2)).exp()
    law = (-((grid[:, None] - grid) ** 2) / (2 * rho**2)).exp() @ given
    law = law * prior.log_prob(grid.reshape(-1, 1, 1, 1), Level(1.0, 0.0)).exp()
    law = law / law.sum()
    measurement = Measurement(Square(), torch.full((1, 1, 1, 1), y, dtype=F64), GaussianNoise(sigma))
    levels = [*(Level(1.0, sigma) for sigma in (4.0, 2.0, 1.0, 0.5, rho)), Level(1.0, 0.0)]
    start = 4 * torch.randn(count, 1, 1, 1, dtype=F64, generator=torch.Generator().manual_seed(3))
    run = Run(prior.denoiser, levels, [Guidance(measurement)], Streams(4, "sampling"))
    x = SplitGibbs(inner=12, hold=60, chain=Chain(kernel, 10))(run, start).flatten()
    weight, mean = law[grid > 0].sum().item(), (law * grid.abs()).sum().item()
    assert (x > 0).double().mean().item() == pytest.approx(weight, abs=0.05)
    assert x.abs().mean().item() == pytest.approx(mean, abs=0.02)
    assert 0.5 < run.record["acceptance"] < 0.9


def test_pictures_through_jpeg():
    """The chain on an operator of the pack, clean: the rounding of 8 bits is its noise."""
    picture = torch.full((1, 3, 16, 16), 0.4)
    picture[..., 8:] = 0.7
    prior = Gaussian.isotropic(torch.full((3, 16, 16), 0.5), 0.3)
    measurement = Measurement.simulate(JPEG(30), picture, GaussianNoise(0.0), 0)
    levels = [*(Level(1.0, sigma, 2.0) for sigma in (2.0, 0.5, 0.1, 0.03)), Level(1.0, 0.0, 2.0)]
    run = Run(prior.denoiser, levels, [Guidance(measurement)], Streams(0, "sampling"))
    x = SplitGibbs(inner=4, hold=0, chain=Chain("HMC", 40))(run, 2 * torch.randn(1, 3, 16, 16))
    assert measurement.residual_rms(x).item() < 0.5 * measurement.residual_rms(prior.sample(1, 0)).item()


def test_the_negative_of_a_picture_is_left():
    """abs(F d x) is the same for -x, which only the prior tells from x: eight samples all find the picture. A chain
    that went on from the noise that it had at the level before would stay at -x in half of them."""
    prior = Gaussian.isotropic(torch.full((1, 8, 8), 0.5, dtype=F64), 0.2)
    picture = prior.sample(1, 3)
    measurement = Measurement.simulate(CodedDiffraction(4), picture, GaussianNoise(0.01), 0)
    rhos = torch.linspace(10 ** (1 / 7), 0.015 ** (1 / 7), 20) ** 7
    levels = [*(Level(1.0, rho) for rho in rhos.tolist()), Level(1.0, 0.0)]
    start = 10 * torch.randn(8, 1, 8, 8, dtype=F64, generator=torch.Generator().manual_seed(1))
    run = Run(prior.denoiser, levels, [Guidance(measurement)], Streams(0, "sampling", 8))
    x = SplitGibbs(4, 2, Chain("HMC", 20))(run, start)
    assert (x - picture).square().mean((1, 2, 3)).sqrt().max() < 0.05
