"""What sampling with likelihood guidance converges to: the posterior, or a bias that is known."""

from __future__ import annotations

import math

import pytest
import torch
from guidance_rows import F64, matrices, measure, one_thread, random_prior  # noqa: F401
from torch import Tensor

from posterior.algebra.streams import Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.diffusion.state import Estimate, State
from posterior.guidance.ddnm import DDNM
from posterior.guidance.dps import DPSGaussian
from posterior.guidance.mmps import MMPS
from posterior.guidance.pigdm import PiGDM
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.identity import Identity
from posterior.operators.inpainting import Inpainting
from posterior.priors.gaussian import Gaussian
from posterior.samplers.ddim import GuidedDDIM

# Exactness on Gaussians: a linear block makes sampling with eta = 0 an affine map, x_0 = M x_T + b, so that mean and
# covariance come without Monte Carlo error.


def karras(steps: int, high: float = 60.0, low: float = 2e-2, rho: float = 7.0) -> list[Level]:
    ramp = torch.linspace(high ** (1 / rho), low ** (1 / rho), steps, dtype=F64) ** rho
    return [Level(1.0, sigma) for sigma in ramp.tolist()] + [Level(1.0, 0.0)]


def moments(prior: Gaussian, block, steps: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance that the deterministic sampler gives from x_T ~ N(mu, C + sigma_T^2 I)."""
    n, shape, levels = prior.mean.numel(), prior.mean.shape, karras(steps)
    starts = torch.cat([torch.eye(n, dtype=F64), torch.zeros(1, n, dtype=F64)]).reshape(-1, *shape)
    ends = GuidedDDIM()(Run(prior.denoiser, levels, [block]), starts).flatten(1)
    matrix = (ends[:-1] - ends[-1]).T
    start = prior.covariance() + levels[0].sigma ** 2 * torch.eye(n, dtype=F64)
    return matrix @ prior.mean.flatten() + ends[-1], matrix @ start @ matrix.T


def error(prior: Gaussian, block, steps: int) -> float:
    """Relative error of the posterior mean (from the prior's) and covariance, the larger of the two."""
    exact = prior.posterior(block.measurement)
    mean, covariance = moments(prior, block, steps)
    centre = exact.mean.flatten()
    first = (mean - centre).norm() / (centre - prior.mean.flatten()).norm()
    second = (covariance - exact.covariance()).norm() / exact.covariance().norm()
    return max(first.item(), second.item())


class Exact(PiGDM):
    """Moment matching with the dense covariance: the reference of the exact methods."""

    def estimate(self, state: State, x0: Tensor):
        operator = self.measurement.operator
        eye = torch.eye(self.measurement.y.numel(), dtype=F64)
        span = operator.adjoint(eye)
        columns = [operator.forward(state.covariance(row.expand_as(x0))) for row in span]
        evidence = torch.stack(columns, -1) + self.measurement.noise.sigma**2 * eye
        w = torch.linalg.solve(evidence, self.measurement.residual(state.x0))
        return Estimate(x0 + state.covariance(operator.adjoint(w)))


@pytest.mark.parametrize("sigma", [0.05, 0.5])
@pytest.mark.parametrize("kind", ["mask", "blur", "random"])
def test_mmps_reaches_the_posterior(kind: str, sigma: float):
    prior = random_prior(4)
    block = MMPS(measure(prior, matrices(4)[kind], sigma), 16)
    errors = [error(prior, block, steps) for steps in (64, 256)]
    assert errors[-1] < 0.02
    assert 2.5 < errors[0] / errors[1] < 6  # first order: a quarter for four times the steps


@pytest.mark.parametrize("kind", ["mask", "blur"])
def test_mmps_reaches_the_posterior_of_64_dimensions(kind: str):
    prior = random_prior(8)
    assert error(prior, MMPS(measure(prior, matrices(8)[kind], 0.5), 16), 256) < 0.02


def test_the_dense_reference_reaches_the_posterior():
    prior = random_prior(4)
    assert error(prior, Exact(measure(prior, matrices(4)["random"], 0.05)), 256) < 0.02


@pytest.mark.parametrize("jacobian", [True, False])
@pytest.mark.parametrize("sigma", [0.05, 0.5])
@pytest.mark.parametrize("kind", ["mask", "blur", "random"])
def test_pigdm_is_exact_for_white_priors(kind: str, sigma: float, jacobian: bool):
    prior = Gaussian.isotropic(torch.full((1, 4, 4), 0.3, dtype=F64), 0.7)
    block = PiGDM(measure(prior, matrices(4)[kind], sigma), 0.7, jacobian)
    assert error(prior, block, 256) < 0.02


# The biased ones, on a scalar N(0, 1) seen with noise


def scalar(sigma: float, y: float = 1.0) -> tuple[Gaussian, Measurement]:
    prior = Gaussian.isotropic(torch.zeros(1, 1, 1, dtype=F64), 1.0)
    return prior, Measurement(Identity(), torch.full((1, 1, 1, 1), y, dtype=F64), GaussianNoise(sigma))


@pytest.mark.parametrize("sigma", [0.7, 1.5])
def test_dps_has_its_known_bias(sigma: float):
    """With u = 1 + sigma_t^2 the flow is dx/du = (x - y / S + x / (u S)) / (2 u), S = sigma_y^2, whose solution from
    u = oo to 1 has variance exp(-1 / S) and mean y exp(-1 / (2 S)) / (2 S) int_0^1 w^-1/2 exp(w / (2 S)) dw."""
    prior, measurement = scalar(sigma)
    mean, variance = moments(prior, DPSGaussian(measurement), 4000)
    S = sigma**2
    integral = sum((1 / (2 * S)) ** k / math.factorial(k) / (k + 0.5) for k in range(40)) - 2 / 60  # from sigma_t = 60
    assert variance.item() == pytest.approx(math.exp(-1 / S), rel=0.01)
    assert mean.item() == pytest.approx(math.exp(-1 / (2 * S)) / (2 * S) * integral, rel=0.01)
    assert abs(variance.item() - S / (1 + S)) > 0.05  # and not the posterior's


def test_ddnm_returns_the_measurement():
    """Whatever the prior says: x_0 = y where there is no noise, and where there is, DDNM+ in the fine limit."""
    prior, clean = scalar(0.0, 2.5)
    mean, variance = moments(prior, DDNM(clean), 20)
    assert mean.item() == pytest.approx(2.5, abs=1e-12) and variance.item() < 1e-20
    prior, noisy = scalar(0.5, 2.5)
    block = DDNM(noisy)
    x = 60 * torch.randn(100, 1, 1, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    run = Run(prior.denoiser, karras(300, low=2e-3), [block], Streams(0, "sampling", 100))
    ends = GuidedDDIM(1.0)(run, x)
    assert ends.mean().item() == pytest.approx(2.5, rel=0.02) and ends.std().item() < 1e-3


def test_pi_gdm_does_not_run_away_where_brightness_varies_by_more_than_c():
    """The variance of a step along brightness is 9000 times what c says; uncut the steps end at 1e13."""
    prior = Gaussian.from_covariance(
        torch.zeros(1, 4, 4, dtype=F64), 0.05**2 * torch.eye(16, dtype=F64) + 1.5**2 * torch.ones(16, 16, dtype=F64)
    )
    mask = torch.zeros(1, 1, 4, 4, dtype=F64)
    mask[..., 2:, :] = 1
    measurement = Measurement.simulate(Inpainting(mask), prior.sample(1, 3), GaussianNoise(0.02), 4)
    run = Run(prior.denoiser, karras(40), [PiGDM(measurement, 0.25)], Streams(0, "test"))
    x = GuidedDDIM(1.0)(run, run.levels[0].sigma * run.draw.normal(torch.zeros(200, 1, 4, 4, dtype=F64)))
    exact = prior.posterior(measurement).sample(200, 5)
    assert 0.8 < measurement.fit(x).mean() < 1.2
    assert (x.mean(0) - exact.mean(0)).abs().max() < 0.025
    assert 0.75 < (x.std(0) / exact.std(0)).mean() < 1.1
