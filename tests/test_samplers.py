"""Samplers against closed forms: order of convergence, moments, posterior samples; schedules against quadrature."""

from __future__ import annotations

import math
from functools import cache
from itertools import combinations
from typing import Literal

import pytest
import torch
from sampler_rows import SAMPLERS, Row
from torch import Tensor

from posterior.algebra.streams import Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.diffusion.schedule import AXES, Schedule
from posterior.guidance.base import Guidance
from posterior.guidance.ddnm import DDNM
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.inpainting import Inpainting
from posterior.priors.gaussian import Gaussian
from posterior.priors.mixture import GaussianMixture
from posterior.samplers.base import Sampler
from posterior.samplers.ddim import GuidedDDIM, fresh_noise, noised, time_travel
from posterior.samplers.dpm import DPMSolver
from posterior.samplers.heun import Heun
from posterior.samplers.langevin import AnnealedLangevin, PredictorCorrector, langevin_step
from posterior.samplers.maruyama import EulerMaruyama


def exploding(steps: int, first: float = 10.0, last: float = 0.1) -> list[Level]:
    """Levels in equal ratios."""
    return [Level(1.0, first * (last / first) ** (i / steps)) for i in range(steps + 1)]


def flow(steps: int, first: float = 0.95, last: float = 0.05) -> list[Level]:
    """Levels in equal differences."""
    return [Level(1 - s, s) for s in (first + (last - first) * i / steps for i in range(steps + 1))]


GAUSSIAN = Gaussian(
    torch.tensor([[[0.7, -1.2]]], dtype=torch.float64), torch.tensor([0.3, 2.0], dtype=torch.float64),
    torch.eye(2, dtype=torch.float64),
)  # fmt: skip
MIXTURE = GaussianMixture.from_centres(
    torch.tensor([[[[1.0, 0.5]]], [[[-1.0, 1.0]]], [[[0.2, -1.3]]]], dtype=torch.float64), 0.6,
    torch.tensor([0.5, 0.2, 0.3]),
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Arithmetic on two pixels: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def flow_of_gaussian(prior: Gaussian, x: Tensor, t: Level, s: Level) -> Tensor:
    """The exact probability flow: each coordinate keeps its quantile."""
    deviation = [(level.alpha**2 * prior.variances + level.sigma**2).sqrt() for level in (t, s)]
    return s.alpha * prior.mean + (x - t.alpha * prior.mean) * deviation[1] / deviation[0]


@cache
def start_and_end(schedule, mixture: bool) -> tuple[Tensor, Tensor]:
    """States at the first level and their exact flow to the last."""
    ends = schedule(1)
    x = torch.tensor([[[[3.0, -2.0]]], [[[-6.0, 4.0]]], [[[1.0, 9.0]]]], dtype=torch.float64)
    x = x * math.hypot(ends[0].alpha, ends[0].sigma) / 10
    return x, Heun()(Run(MIXTURE.denoiser, schedule(600)), x) if mixture else flow_of_gaussian(GAUSSIAN, x, *ends)


@pytest.mark.parametrize("schedule", [exploding, flow])
@pytest.mark.parametrize("prior", [GAUSSIAN, MIXTURE], ids=["Gaussian", "mixture"])
@pytest.mark.parametrize("solver, order", [(GuidedDDIM(), 1), (Heun(), 2), (DPMSolver(), 2)])
def test_order_of_the_ode_solvers(solver, order, prior, schedule):
    x, exact = start_and_end(schedule, prior is MIXTURE)
    counts = [16, 32, 64, 128]
    errors = [(solver(Run(prior.denoiser, schedule(n)), x) - exact).abs().max().log2().item() for n in counts]
    slope = -sum(b - a for a, b in zip(errors[:-1], errors[1:], strict=True)) / 3
    assert order - 0.25 < slope < order + 0.6


class Impulses:
    """Draws of which the n-th is a unit in sample n and zero elsewhere: a linear sampler then shows its weights."""

    def __init__(self):
        self.drawn = 0

    def normal(self, like: Tensor) -> Tensor:
        z = torch.zeros_like(like)
        if self.drawn < len(z) - 1:
            z[self.drawn] = 1.0
        self.drawn += 1
        return z


def variance(sampler: Sampler, levels, prior: Gaussian) -> Tensor:
    """Exact variance of what a sampler makes of x_T ~ p_T on a Gaussian of mean 0: sum of the squared weights."""
    steps = len(levels) - 1
    x = torch.zeros(steps + 1, 1, 1, 2, dtype=torch.float64)
    start = (levels[0].alpha ** 2 * prior.variances + levels[0].sigma ** 2).sqrt()
    x[steps] = start  # the last sample carries the start, the others one draw each
    return sampler(Run(prior.denoiser, levels, draw=Impulses()), x).square().sum(0).flatten()


CENTRED = Gaussian(torch.zeros(1, 1, 2, dtype=torch.float64), GAUSSIAN.variances, GAUSSIAN.basis)
STOCHASTIC = {
    "ancestral DDIM": (GuidedDDIM(1.0), 1),
    "DPM-Solver++ SDE": (DPMSolver(stochastic=True), 2),
    "Euler-Maruyama VE": (EulerMaruyama(AXES["VE"]), 1),
    "Euler-Maruyama VP": (EulerMaruyama(AXES["VP"]), 1),
    "Euler-Maruyama flow": (EulerMaruyama(AXES["flow"]), 1),
}


@pytest.mark.parametrize("schedule", [exploding, flow])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_weak_order_of_the_sde_solvers(name, schedule):
    """The variance they make, computed without any random number, against that of p_s."""
    solver, order = STOCHASTIC[name]
    end = schedule(1)[1]
    exact = end.alpha**2 * CENTRED.variances + end.sigma**2
    counts = (40, 80, 160, 320)
    errors = [(variance(solver, schedule(n), CENTRED) - exact).abs().max().log2().item() for n in counts]
    slope = (errors[0] - errors[-1]) / 3
    # a scheme whose error is a fortunate few parts in ten thousand has no slope to speak of
    assert order - 0.25 < slope < order + 0.8 or 2 ** errors[-1] < 5e-4 * exact.max()
    assert 2 ** errors[-1] < 0.04 * exact.max()


def wide(prior_deviation: float = 0.8) -> Gaussian:
    """Twenty thousand independent pixels: moments over one picture."""
    return Gaussian.isotropic(torch.full((1, 100, 200), 0.3, dtype=torch.float64), prior_deviation)


def test_langevin_is_stationary():
    """At one level the chain has the variance V / (1 - rho sigma^2 / (2 V)) of its linear recursion."""
    prior, level, size = wide(0.5), Level(0.8, 0.6), 0.3
    target = 0.8**2 * 0.25 + 0.36
    draw = Streams(1, "sampling")
    x = 0.8 * prior.mean + target**0.5 * torch.randn(1, *prior.mean.shape, generator=torch.manual_seed(2)).double()
    for _ in range(30):
        estimate = Run(prior.denoiser, [level]).guided(x, level)
        x = langevin_step(x, level, estimate, size, draw.normal(x))
    expected = target / (1 - size * 0.36 / (2 * target))
    assert x.mean().item() == pytest.approx(0.8 * 0.3, abs=4 * (target / 2e4) ** 0.5)
    assert x.var().item() == pytest.approx(expected, rel=5 * (2 / 2e4) ** 0.5)


@pytest.mark.parametrize(
    "name, steps, sampler",
    [
        ("ancestral", 400, GuidedDDIM(1.0)),
        ("ode", 80, Heun()),
        ("sde", 80, DPMSolver(stochastic=True)),
        ("maruyama", 300, EulerMaruyama(AXES["VP"])),
        ("annealed Langevin", 200, AnnealedLangevin(10, 0.1)),
        ("predictor-corrector", 80, PredictorCorrector(2, 0.1)),
    ],
)
def test_moments_at_the_end(name, steps, sampler):
    """From noise to pictures of a Gaussian: its mean and its variance."""
    prior, levels = wide(), [*exploding(steps, 20.0, 0.02), Level(1.0, 0.0)]
    x = 20.0 * torch.randn(1, *prior.mean.shape, generator=torch.manual_seed(3)).double()
    samples = sampler(Run(prior.denoiser, levels, draw=Streams(4, "sampling")), x)
    assert samples.mean().item() == pytest.approx(0.3, abs=0.03)
    assert samples.var().item() == pytest.approx(0.64, rel=0.05)


def sliced_wasserstein(a: Tensor, b: Tensor) -> float:
    """Mean over directions of the 1-Wasserstein distance of equally many samples."""
    angles = torch.linspace(0, math.pi, 33, dtype=a.dtype)[:-1]
    directions = torch.stack([angles.cos(), angles.sin()])
    quantiles = [torch.sort(points.flatten(1) @ directions, 0).values for points in (a, b)]
    return (quantiles[0] - quantiles[1]).abs().mean().item()


@pytest.mark.parametrize("name", ["ode", "sde", "ancestral", "maruyama"])
def test_posterior_samples_of_a_mixture(name):
    """The exact conditional score: within 1.5 of the distance between two sets of exact samples."""
    mask = torch.zeros(1, 1, 1, 2)
    mask[..., 1] = 1
    measurement = Measurement(
        Inpainting(mask).to("cpu", torch.float64), torch.tensor([[[[0.1, 0.0]]]], dtype=torch.float64),
        GaussianNoise(0.4),
    )  # fmt: skip
    posterior, count = MIXTURE.posterior(measurement), 1000
    sampler = {
        "ode": DPMSolver(),
        "sde": DPMSolver(stochastic=True),
        "ancestral": GuidedDDIM(1.0),
        "maruyama": EulerMaruyama(AXES["VP"]),
    }[name]
    steps = {"maruyama": 150, "ancestral": 150}.get(name, 40)  # schemes of first order
    levels = [*exploding(steps, 20.0, 0.02), Level(1.0, 0.0)]
    x = 20.0 * torch.randn(count, 1, 1, 2, generator=torch.manual_seed(5)).double()
    samples = sampler(Run(posterior.denoiser, levels, draw=Streams(6, "sampling", count)), x)
    exact = [posterior.sample(count, seed) for seed in range(7)]
    floor = sum(sliced_wasserstein(a, b) for a, b in combinations(exact, 2)) / 21
    distance = sum(sliced_wasserstein(samples, other) for other in exact) / 7
    assert distance < 1.5 * floor


def test_noise_rules():
    """eta = 1 is the ancestral step: v^2 = sigma_s^2 (sigma_t^2 - sigma_s^2) / sigma_t^2 where alpha is 1."""
    t, s = Level(1.0, 2.0), Level(1.0, 0.5)
    ancestral = (0.25 * (4 - 0.25) / 4) ** 0.5
    assert fresh_noise(t, s, 1.0) == pytest.approx(ancestral)
    assert fresh_noise(t, s, 0.5) == pytest.approx(ancestral / 2)
    assert fresh_noise(t, s, 3.0) == 0.5  # never more than the state holds
    assert fresh_noise(t, s, 0.3, "varsigma") == 0.3
    assert fresh_noise(t, Level(1.0, 0.5, 2.0), 0.3, "varsigma") == 0.15  # given in the model's unit
    assert fresh_noise(t, s, 0.25, "zeta") == 0.25
    assert fresh_noise(Level(0.0, 1.0), Level(0.1, 0.9), 1.0) == pytest.approx(0.9)  # flow, from pure noise


def test_time_travel():
    assert time_travel(4, 2, 1) == [0, 1, 2, 3, 4]
    assert time_travel(4, 2, 2) == [0, 1, 2, 0, 1, 2, 3, 4, 2, 3, 4]
    assert time_travel(5, 2, 3, start=0.5) == [0, 1, 2, 3, 4, 5, 4, 5, 4, 5]
    repaint = time_travel(250, 10, 10, start=0.04)  # the published schedule: 24 stretches, 9 times more
    ups = [(i, j) for i, j in zip(repaint[:-1], repaint[1:], strict=True) if j < i]
    assert len(repaint) - 1 - len(ups) == 250 + 24 * 9 * 10 == 2410
    assert set(ups) == {(first + 10, first) for first in range(10, 250, 10)}
    # the way up is the forward process: a state of law p_s becomes one of law p_t
    prior, s, t = wide(0.5), Level(0.9, 0.3), Level(0.6, 0.8)
    x = 0.9 * prior.sample(1, 1) + 0.3 * torch.randn(1, 1, 100, 200, generator=torch.manual_seed(1)).double()
    up = noised(x, s, t, torch.randn(x.shape, generator=torch.manual_seed(2)).double())
    assert up.var().item() == pytest.approx(0.36 * 0.25 + 0.64, rel=0.05)
    assert up.mean().item() == pytest.approx(0.6 * 0.3, abs=0.03)


def test_time_travel_keeps_the_law_and_the_calls():
    prior, levels, seen = wide(), [*exploding(200, 20.0, 0.05), Level(1.0, 0.0)], []
    x = 20.0 * torch.randn(1, *prior.mean.shape, generator=torch.manual_seed(3)).double()
    run = Run(prior.denoiser, levels, draw=Streams(4, "sampling"), report=lambda i, *_: seen.append(i))
    samples = GuidedDDIM(1.0, repeats=2, jump=5)(run, x)
    assert samples.var().item() == pytest.approx(0.64, rel=0.05)
    assert len(seen) == 402 and seen == sorted(seen) and seen[-1] <= 200


# Every sampler


def problem(row: Row, sigma: float, measure: Literal["first", "each"] = "first") -> list[Guidance]:
    """The first of two numbers is measured: one measurement for all, or one for each of six samples."""
    mask = torch.zeros(1, 1, 1, 2)
    mask[..., 1] = 1
    y = torch.tensor([[[[0.4, 0.0]]]], dtype=torch.float64)
    y = y * torch.linspace(1, 2, 6).reshape(6, 1, 1, 1) if measure == "each" else y
    measurement = Measurement(Inpainting(mask).to("cpu", torch.float64), y, GaussianNoise(sigma))
    return [Guidance(measurement) if row.measured else DDNM(measurement)]


@pytest.mark.parametrize("row", SAMPLERS, ids=str)
def test_flow_from_pure_noise_to_a_consistent_picture(row: Row):
    """alpha = 0 at the start, sigma = 0 at the end: finite, and what was measured is kept."""
    blocks, seen = problem(row, 0.05 if row.measured else 0.0), []
    levels = [Level(1 - s, s) for s in (1.0, 0.8, 0.5, 0.2, 0.0)]
    x = torch.randn(3, 1, 1, 2, generator=torch.manual_seed(1)).double()
    run = Run(
        MIXTURE.denoiser, levels, blocks, Streams(0, "sampling", 3), lambda i, x, x0, t: seen.append(i),
        schedule=Schedule("flow"),
    )  # fmt: skip
    samples = row.sampler(run, x)
    assert samples.isfinite().all()
    # a chain of finite width is as far off as its last level lets it
    assert blocks[0].measurement.residual(samples).abs().max() < (0.5 if row.measured else 1e-12)
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] < len(levels) - 1, "the progress"


@pytest.mark.parametrize("measure", ["first", "each"])
@pytest.mark.parametrize("row", SAMPLERS, ids=str)
def test_a_sample_is_the_picture_that_it_would_be_alone(row: Row, measure):
    blocks, levels = problem(row, 0.3, measure), exploding(5, 5.0, 0.1)
    x = 5 * torch.randn(6, 1, 1, 2, generator=torch.manual_seed(1)).double()

    def samples(*index: int) -> Tensor:
        own = [block.take(torch.tensor(index)) for block in blocks]
        return row.sampler(Run(MIXTURE.denoiser, levels, own, Streams(3, "sampling", index)), x[list(index)])

    together = samples(*range(6))
    for i in (0, 1, 5):
        torch.testing.assert_close(samples(i), together[i : i + 1], rtol=1e-10, atol=1e-10)
