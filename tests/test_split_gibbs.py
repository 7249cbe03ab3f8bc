"""Split Gibbs sampling against the exact posterior of a Gaussian and of a mixture."""

from __future__ import annotations

import pytest
import torch
from guidance_rows import F64, matrices, measure, one_thread, random_prior  # noqa: F401

from posterior.algebra.refusal import Refusal
from posterior.algebra.streams import Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.diffusion.schedule import Schedule
from posterior.guidance.base import Guidance
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.dense import Dense
from posterior.operators.jpeg import JPEG
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


def test_damage_that_is_not_linear_is_refused():
    measurement = Measurement(JPEG(30), torch.rand(1, 3, 16, 16), GaussianNoise(0.1))
    run = Run(lambda x, t: x, [Level(1.0, 1.0), Level(1.0, 0.0)], [Guidance(measurement)])
    with pytest.raises(Refusal, match="needs a linear operator"):
        SplitGibbs()(run, torch.zeros(1, 3, 16, 16))
