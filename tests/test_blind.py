"""Unknown parameters: their joint posterior with the picture against numerical integration, and where they lead."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from guidance_rows import F64, one_thread, random_prior  # noqa: F401
from torch import Tensor

from posterior.algebra.simplex import on_simplex
from posterior.algebra.streams import Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.guidance.base import Guidance
from posterior.guidance.diffpir import DiffPIR
from posterior.measurement.measurement import Measurement, combine
from posterior.measurement.noise import GaussianNoise
from posterior.operators import kernels
from posterior.operators.compose import compose
from posterior.operators.convolution import convolution
from posterior.operators.families import DiskRadius, Exposure, FreeKernel, GammaCurve, GaussianWidth, Known, Motion
from posterior.operators.identity import Identity, Scale
from posterior.operators.inpainting import RandomPixels
from posterior.operators.levels import Levels
from posterior.operators.pointwise import Gamma
from posterior.priors.gaussian import Gaussian
from posterior.samplers.blind import Blind
from posterior.samplers.blind_gibbs import BlindSplitGibbs
from posterior.samplers.blind_red_diff import BlindREDDiff
from posterior.samplers.unknown import Search, Unknown


def integrated(log_p: Tensor, grid: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of a law given on an even grid."""
    p = (log_p - log_p.max()).exp()
    p = p / p.sum()
    mean = (p * grid).sum()
    return mean.item(), (p * (grid - mean) ** 2).sum().sqrt().item()


def widened(prior: Gaussian, rho: float) -> Gaussian:
    """The prior of z, which is x with noise of deviation rho."""
    return Gaussian.from_covariance(prior.mean, prior.covariance() + rho**2 * torch.eye(prior.mean.numel(), dtype=F64))


@pytest.mark.parametrize("kind", ["exposure", "noise"])
def test_the_law_of_a_scalar_is_the_integral_over_pictures(kind):
    """p(theta | y) ~ p(theta) N(y; A mu, A (C + rho^2 I) A^T + sigma_y^2 I), on a grid of theta."""
    prior, rho, count, turns = random_prior(4), 0.5, 600, 25
    picture, noise = prior.sample(1, 5), GaussianNoise(0.3)
    # one picture cannot tell noise from fine detail, three of the same can
    several = [Measurement.simulate(Identity(), picture, noise, seed) for seed in (1, 2, 3)]
    truth = Measurement.simulate(Scale(0.6), picture, noise, 1) if kind == "exposure" else combine(several)
    known = Identity() if kind == "exposure" else truth.operator
    grid = torch.linspace(0.02, 2.0, 200, dtype=F64)
    z = widened(prior, rho)
    if kind == "exposure":
        unknown = Unknown(Exposure(offset=False), update="draw", spread=0.5)
        each = [(Scale(a), 0.3) for a in grid.tolist()]
        log_prior = -((grid - 1) ** 2) / (2 * 0.5**2)
    else:
        unknown, log_prior = Unknown(Known(), noise=True, update="draw"), -grid.log()
        each = [(known, sigma) for sigma in grid.tolist()]
    evidence = [z.log_evidence(Measurement(operator, truth.y, GaussianNoise(sigma))) for operator, sigma in each]
    mean, deviation = integrated(torch.stack(evidence) + log_prior, grid)
    levels = [Level(1.0, s) for s in (2.0, 1.0, rho, 0.0)]
    run = Run(
        prior.denoiser, levels, [Guidance(Measurement(known, truth.y, GaussianNoise(0.3)))], Streams(4, "sampling")
    )
    start = torch.randn(count, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(3))
    BlindSplitGibbs(unknown, inner=16, hold=turns)(run, 2 * start)
    found = run.record["noise" if kind == "noise" else "theta"].flatten()
    # five standard errors, and the bias of sixteen steps
    assert abs(found.mean().item() - mean) < (5 * count**-0.5 + 0.03) * deviation
    assert abs(found.std().item() / deviation - 1) < 5 * (2 * count) ** -0.5 + 0.05


BLURS = [
    (Motion(15, length=9, angle=40), {"length": 6.0, "angle": 20.0}),
    (DiskRadius(15, radius=4), {"radius": 2.5}),
]


@pytest.mark.parametrize("family, start", BLURS, ids=["motion", "defocus"])
def test_a_blur_s_parameters_are_found_in_a_known_picture(family, start):
    """From 30 to 40 % off, also where a mask hides half of what was seen; the noise is found with them."""
    x, truth, far = picture(), family.start().double()[None], replace(family, **start)
    for after in (Identity(), RandomPixels(0.5)):
        measurement = Measurement.simulate(compose(after, family.operator(truth)), x, GaussianNoise(0.01), 1)
        unknown, known = Unknown(far, noise=True, rounds=12), replace(measurement, operator=after)
        search = Search(unknown, known, x, Streams(0, "test"))
        search.update(x)
        # five standard errors of the last parameter are about 0.02
        torch.testing.assert_close(search.theta, truth, rtol=0.0, atol=0.05)
        assert search.sigma.item() == pytest.approx(0.01, rel=0.05)
        found = search.measurement()
        assert found.fit(x).item() == pytest.approx(1, abs=0.05)


def test_the_error_of_a_mean_is_counted_as_what_it_scatters():
    """The least mean of norm(y - k * (x + e n))^2, over many n, on a grid."""
    x, family, e = picture(), GaussianWidth(15, sigma=1.5), 0.3
    known = Measurement(Identity(), family.operator(torch.tensor([[1.5]], dtype=F64)).forward(x), GaussianNoise(0.01))
    n = torch.randn(400, 3, 32, 32, dtype=F64, generator=torch.Generator().manual_seed(1))
    grid = torch.linspace(1.2, 2.4, 61, dtype=F64)
    misfit = [(known.y - family.operator(s[None, None]).forward(x + e * n)).square().mean() for s in grid]
    search = Search(Unknown(family, rounds=10), known, x, Streams(0, "test"))
    search.update(x, e)
    # a step of the grid; the border sees some noise twice
    assert search.theta.item() == pytest.approx(grid[torch.stack(misfit).argmin()].item(), abs=0.05)
    assert search.theta.item() > 1.55


def test_a_kernel_and_its_picture_are_put_in_the_middle_together():
    x, kernel = picture(), torch.zeros(1, 1, 7, 7, dtype=F64)
    kernel[..., 4, 5], kernel[..., 4, 6] = 0.7, 0.3
    y = convolution(kernel, "circular").forward(x)
    family = FreeKernel(7, "circular")
    search = Search(Unknown(family), Measurement(Identity(), y, GaussianNoise(0.01)), x, Streams(0, "test"))
    search.move(family.theta(kernel))
    moved = search.aligned(x)
    found = search.record()["kernel"]
    assert found[0, 0, 3, 3].item() == pytest.approx(0.7, abs=1e-4)
    inside = (..., slice(6, -6), slice(6, -6))
    torch.testing.assert_close(convolution(found, "circular").forward(moved)[inside], y[inside], atol=1e-3, rtol=0)


def test_a_free_kernel_is_found_in_a_known_picture():
    x, kernel = picture(), kernels.camera_shake(3, 1).double()
    measurement = Measurement.simulate(convolution(kernel), x, GaussianNoise(0.0), 1)
    known = replace(measurement, operator=Identity())
    search = Search(Unknown(FreeKernel(kernel.shape[-1] + 2), rounds=20), known, x, Streams(0, "test"))
    search.update(x)
    found = search.record()["kernel"]
    # the start, a Gaussian, is 0.2 off at its peak
    assert (found[..., 1:-1, 1:-1] - kernel).abs().max() < 0.01


def test_gamma_is_drawn_from_its_law():
    """MALA on p(g | x, y) against a grid."""
    x = 0.1 + 0.8 * picture()[..., :4, :4]
    measurement = Measurement.simulate(Gamma(1.7), x, GaussianNoise(0.1), 1)
    known = replace(measurement, operator=Identity())
    grid = torch.linspace(0.2, 5, 2000, dtype=F64)
    residual = known.y - x ** grid.reshape(-1, 1, 1, 1)
    log_p = known.noise.log_likelihood(residual) - (grid - 1) ** 2 / (2 * 2.0**2)
    mean, deviation = integrated(log_p, grid)
    count = 2000
    unknown = Unknown(GammaCurve(), update="draw", spread=2.0, rounds=25)
    search = Search(unknown, known, x.expand(count, -1, -1, -1), Streams(3, "test"))
    search.update(x.expand(count, -1, -1, -1))
    assert abs(search.theta.mean().item() - mean) < 5 * count**-0.5 * deviation
    assert abs(search.theta.std().item() / deviation - 1) < 5 * (2 * count) ** -0.5


BOTH = [Blind(Unknown(Exposure(), noise=True)), BlindREDDiff(Unknown(Exposure()), 0.25, 0.05)]


@pytest.mark.parametrize("sampler", BOTH, ids=lambda sampler: sampler.label)
def test_levels_are_found_with_the_picture(sampler):
    """On a prior that knows its pictures' brightness: theta ends at the least squares of y on x_0, near the truth."""
    prior = Gaussian.from_covariance(
        picture()[0, :, :8, :8], 0.02**2 * torch.eye(192, dtype=F64) + 1e-4 * torch.eye(192, dtype=F64)
    )
    truth = Measurement.simulate(Levels(0.5, 0.3), prior.sample(1, 3), GaussianNoise(0.005), 1)
    y = truth.operator.picture(truth.y)
    block = DiffPIR(Measurement(Identity(), y, GaussianNoise(0.02)))
    levels = [*(Level(1.0, s) for s in torch.logspace(1, -2, 150, dtype=F64).tolist()), Level(1.0, 0.0)]
    run = Run(prior.denoiser, levels, [block], Streams(1, "sampling", 1))
    start = torch.randn(1, 3, 8, 8, dtype=F64, generator=torch.Generator().manual_seed(3))
    sampler(run, 10 * start)
    torch.testing.assert_close(run.record["theta"], torch.tensor([[0.5, 0.3]], dtype=F64), rtol=0.0, atol=0.03)
    assert len(run.record["gain"]) == len(run.record["offset"]) > 100


def picture() -> Tensor:
    """Smooth blobs with edges, `1 3 32 32` in [0, 1]."""
    x = torch.randn(1, 3, 32, 32, dtype=F64, generator=torch.Generator().manual_seed(4))
    x = convolution(kernels.gaussian(1.2).double(), "circular").forward(x)
    return 0.5 + 0.35 * (4 * x).tanh()


def test_the_simplex_is_met_at_its_nearest_point():
    v = torch.randn(3, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
    k = on_simplex(v)
    torch.testing.assert_close(k.sum(1), torch.ones(3, dtype=F64))
    assert (k >= 0).all()
    others = torch.rand(200, 3, 6, dtype=F64, generator=torch.Generator().manual_seed(1))
    others = others / others.sum(2, keepdim=True)
    assert (((others - k) * (v - k)).sum(2) <= 1e-12).all()  # the optimality of a projection on a convex set
