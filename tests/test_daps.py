"""DAPS: its law where it is exact, its published trajectory, digits; DiffPIR as a draw."""

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
from posterior.diffusion.state import predict
from posterior.guidance.base import Guidance
from posterior.guidance.diffpir import DiffPIR
from posterior.measurement.decoded import Decoded
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.dense import Dense
from posterior.priors.gaussian import Gaussian
from posterior.priors.mixture import GaussianMixture
from posterior.samplers.daps import DAPS
from posterior.samplers.ddim import GuidedDDIM
from posterior.samplers.likelihood_chain import Chain

SHAPE = (1, 4, 4)


@pytest.mark.parametrize("schedule", [Schedule(), Schedule("flow")], ids=["exploding", "flow"])
@pytest.mark.parametrize("chain", [None, Chain("HMC", 60), Chain("MALA", 100)], ids=["exact", "HMC", "MALA"])
def test_a_white_prior_s_posterior(chain, schedule):
    """One step of the ODE and r_t^2 of the prior: the exact posterior, whatever A."""
    deviation, matrix, sigma, count = 0.8, matrices(4)["random"], 0.3, 4000
    prior = Gaussian.isotropic(random_prior(4).mean, deviation)
    measurement = measure(prior, matrix, sigma)
    levels = [*(schedule.at(ratio) for ratio in (3.0, 0.7, 0.3)), Level(1.0, 0.0)]
    start = torch.randn(count, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(3))
    run = Run(prior.denoiser, levels, [Guidance(measurement)], Streams(4, "sampling"), schedule=schedule)
    sampler = DAPS(1, deviation, chain=chain or Chain(), exact=chain is None)
    x = sampler(run, levels[0].alpha * prior.mean + levels[0].sigma * start).flatten(1)
    law = prior.posterior(measurement)
    variance = law.covariance().diag()
    assert ((x.mean(0) - law.mean.flatten()).abs() < (5 * count**-0.5 + 0.02) * variance.sqrt()).all()
    assert ((x.var(0) / variance - 1).abs() < 5 * (2 / count) ** 0.5 + 0.02).all()


def test_the_published_r_scatters_too_much():
    """The known bias: with r_t = sigma_bar_t what was not measured scatters more than the prior allows."""
    prior, matrix, count = random_prior(4), matrices(4)["mask"], 2000
    measurement = measure(prior, matrix, 0.3)
    levels = [*(Level(1.0, sigma) for sigma in (10.0, 3.0, 1.0, 0.5, 0.25)), Level(1.0, 0.0)]
    start = 10 * torch.randn(count, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(3))
    run = Run(prior.denoiser, levels, [Guidance(measurement)], Streams(4, "sampling"))
    hidden = matrix.sum(0) == 0
    truth = prior.posterior(measurement).covariance().diag()[hidden]
    found = DAPS(deviation=math.inf)(run, start).flatten(1)[:, hidden].var(0)
    assert (found > truth).all() and (found / truth).mean() > 1.2


def published(matrix: Tensor, y: Tensor, prior: GaussianMixture, sigmas: list[float], x: Tensor, noise) -> Tensor:
    """Algorithm 1 of DAPS as the authors run it, variance exploding, pictures in [-1, 1]: 5 Euler steps, 12 Langevin
    steps with tau = 0.2 and a step that falls from 1e-3 to a tenth of it."""
    for k, sigma in enumerate(sigmas):
        last = 0.002 if sigma > 0.02 else sigma / 10
        walk = [(sigma ** (1 / 7) + i / 4 * (last ** (1 / 7) - sigma ** (1 / 7))) ** 7 for i in range(5)] + [0.0]
        x0 = x
        for now, then in zip(walk[:-1], walk[1:], strict=True):
            d = (x0 - prior.denoiser(x0, Level(1.0, now))) / now
            x0 = x0 + (then - now) * d
        hat, rate = x0, 1e-3 * (1 - 0.9 * k / len(sigmas))
        for _ in range(12):
            data = ((y - x0.flatten(1) @ matrix.T) @ matrix).reshape(x0.shape) / 0.2**2
            x0 = x0 + rate * (data - (x0 - hat) / sigma**2) + math.sqrt(2 * rate) * noise()
        following = [*sigmas[1:], 0.0][k]
        x = x0 + following * noise() if following else x0
    return x


def test_the_published_trajectory():
    """An independent transcription in [-1, 1] with the same noise, ours in [0, 1]."""
    prior = GaussianMixture([random_prior(4, seed) for seed in (0, 1, 2)], torch.tensor([0.5, 0.3, 0.2], dtype=F64))
    matrix, sigmas = matrices(4)["random"], [5.0, 2.0, 0.8, 0.3, 0.1]
    y = prior.sample(1, 4).flatten(1) @ matrix.T
    start = 5.0 * torch.randn(2, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(6))
    draws = Streams(8, "sampling", 2)
    theirs = published(matrix, y, prior, sigmas, start, lambda: draws.normal(start))

    measurement = Measurement(Dense(matrix, SHAPE), (y + matrix.sum(1)) / 2, GaussianNoise(0.025))
    levels = [*(Level(1.0, sigma / 2, 2.0) for sigma in sigmas), Level(1.0, 0.0, 2.0)]

    class Fine(Schedule):
        def ramp(self, t, steps):
            return super().ramp(t, steps, low=0.002)

    run = Run(
        lambda u, t: (prior.denoiser(2 * u - 1, Level(1.0, 2 * t.sigma)) + 1) / 2, levels, [Guidance(measurement)],
        Streams(8, "sampling", 2), schedule=Fine(),
    )  # fmt: skip
    sampler = DAPS(
        5, math.inf, tau=0.1, chain=Chain("Langevin", 12, rate=1e-3), exact=False, solver=GuidedDDIM(), fall=0.1
    )
    torch.testing.assert_close(2 * sampler(run, (start + 1) / 2) - 1, theirs, rtol=1e-5, atol=1e-5)


class Line:
    """A decoder that is a matrix: latents of 8 numbers, pictures of 16."""

    def __init__(self, basis: Tensor):
        self.basis = basis

    def decode(self, z: Tensor) -> Tensor:
        return (z.flatten(1) @ self.basis.T).reshape(-1, *SHAPE)

    def encode(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.basis).reshape(-1, 1, 2, 4)


def test_latents():
    """Through a linear decoder the chain finds the posterior of the latents."""
    basis = torch.linalg.qr(torch.randn(16, 8, dtype=F64, generator=torch.Generator().manual_seed(0)))[0]
    prior, count = Gaussian.isotropic(torch.zeros(1, 2, 4, dtype=F64), 1.0), 3000
    picture = Line(basis).decode(prior.sample(1, 1))
    measurement = Measurement.simulate(Dense(matrices(4)["random"], SHAPE), picture, GaussianNoise(0.3), 0)
    of_latents = Dense(matrices(4)["random"] @ basis, (1, 2, 4))
    law = prior.posterior(Measurement(of_latents, measurement.y, GaussianNoise(0.3)))
    seen = Measurement(Decoded(measurement.operator, Line(basis)), measurement.y, measurement.noise)
    levels = [*(Level(1.0, sigma) for sigma in (4.0, 1.0, 0.5)), Level(1.0, 0.0)]
    start = 4 * torch.randn(count, 1, 2, 4, dtype=F64, generator=torch.Generator().manual_seed(3))
    run = Run(prior.denoiser, levels, [Guidance(seen)], Streams(4, "sampling"))
    x = DAPS(1, 1.0, chain=Chain("HMC", 60))(run, start).flatten(1)
    variance = law.covariance().diag()
    assert ((x.mean(0) - law.mean.flatten()).abs() < (5 * count**-0.5 + 0.02) * variance.sqrt()).all()
    assert ((x.var(0) / variance - 1).abs() < 5 * (2 / count) ** 0.5 + 0.02).all()


@pytest.mark.parametrize("sigma", [0.3, 0.0])
def test_diffpir_as_a_draw(sigma):
    """N(m, P^-1), P = A^T A / sigma_y^2 + lambda I / r_t^2, m what it answers without; exact data when clean."""
    prior, matrix, t, count = random_prior(4), matrices(4)["random"], Level(1.0, 0.7), 20000
    measurement = measure(prior, matrix, sigma)
    mean_block, draw_block = DiffPIR(measurement, 1.5, 1.0), DiffPIR(measurement, 1.5, 1.0, draw=True)
    x = prior.sample(1, 5).expand(count, -1, -1, -1)
    state = predict(prior.denoiser, x, t, draw=Streams(1, "test"))
    drawn = draw_block.estimate(state, state.x0).x0.flatten(1)
    mean = mean_block.estimate(state, state.x0).x0[0].flatten()
    r2 = 0.49 / 1.49 / 1.5
    if sigma:
        covariance = torch.linalg.inv(matrix.T @ matrix / sigma**2 + torch.eye(16, dtype=F64) / r2)
    else:
        assert measurement.residual(drawn.reshape(-1, *SHAPE)).abs().max() < 1e-9
        covariance = r2 * (torch.eye(16, dtype=F64) - torch.linalg.pinv(matrix) @ matrix)
    assert ((drawn.mean(0) - mean).abs() < 5 * (covariance.diag() / count).sqrt() + 1e-9).all()
    assert (drawn.T.cov() - covariance).abs().max() < 5 * (2 / count) ** 0.5 * covariance.diag().max()


def test_flower_is_exact_for_a_white_prior():
    """DiffPIR's draw with zeta = 1 and c of the prior: FLOWER's chain ends in the posterior, its mean form does not."""
    prior, matrix, sigma, count = Gaussian.isotropic(random_prior(4).mean, 1.0), matrices(4)["mask"], 0.3, 4000
    measurement, schedule = measure(prior, matrix, sigma), Schedule("flow")
    levels = [schedule.level(1 - i / 5) for i in range(5)] + [Level(1.0, 0.0)]
    start = torch.randn(count, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(3))
    variance = prior.posterior(measurement).covariance().diag()

    def spread(draw: bool) -> Tensor:
        block = DiffPIR(measurement, deviation=1.0, draw=draw)
        run = Run(prior.denoiser, levels, [block], Streams(4, "sampling"), schedule=schedule)
        return GuidedDDIM(1.0, "zeta")(run, start).flatten(1).var(0)

    assert ((spread(True) / variance - 1).abs() < 5 * (2 / count) ** 0.5).all()
    assert (spread(False) < 0.7 * variance).all()
