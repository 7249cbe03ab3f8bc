"""MGPS and DCPS: published trajectories transcribed, bridges, the posterior of a Gaussian, model calls."""

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
from posterior.operators.dense import Dense
from posterior.priors.mixture import GaussianMixture
from posterior.samplers.dcps import DCPS
from posterior.samplers.fitted_steps import bridge
from posterior.samplers.mgps import MGPS

SHAPE, STEPS, SIGMA = (1, 4, 4), 12, 0.2
PRIOR = GaussianMixture([random_prior(4, seed) for seed in (0, 1, 2)], torch.tensor([0.5, 0.3, 0.2], dtype=F64))
MATRIX = matrices(4)["random"]
Y = PRIOR.sample(1, 4).flatten(1) @ MATRIX.T
VP = AXES["VP"]


def alpha_bar(time: float) -> float:
    return VP.alpha(time) ** 2


def prediction(x: Tensor, time: float) -> Tensor:
    return PRIOR.denoiser(x, Level(VP.alpha(time), VP.sigma(time)))


def between(x_t: Tensor, x_l: Tensor, t: float, low: float, s: float) -> tuple[Tensor, float]:
    """q(x_s given x_l, x_t), variance preserving (DDIM's paper, with alpha_bar relative to l)."""
    t_l, s_l, t_s = alpha_bar(t) / alpha_bar(low), alpha_bar(s) / alpha_bar(low), alpha_bar(t) / alpha_bar(s)
    mean = math.sqrt(t_s) * (1 - s_l) / (1 - t_l) * x_t + math.sqrt(s_l) * (1 - t_s) / (1 - t_l) * x_l
    return mean, math.sqrt((1 - s_l) * (1 - t_s) / (1 - t_l))


def energy(m: Tensor, log_v: Tensor, mean: Tensor, deviation: float, misfit: Tensor) -> Tensor:
    kl = 0.5 * (log_v.exp() + (m - mean) ** 2) / deviation**2 - 0.5 * log_v
    return misfit + kl.sum()


def mgps(x: Tensor, noise) -> Tensor:
    """Algorithm of MGPS with torch's Adam: 3 iterations a step, 8 in the last two and each fourth, rate 0.05."""
    for k in range(STEPS, 0, -1):
        t, s = k / STEPS, (k - 1) / STEPS
        x0 = prediction(x, t)
        if k == 1:
            return x0
        low = s / 2
        mean, deviation = between(x, x0, t, 0.0, low)
        m, log_v = mean.clone().requires_grad_(), torch.full_like(mean, 2 * math.log(deviation)).requires_grad_()
        adam = torch.optim.Adam([m, log_v], lr=0.05)
        for _ in range(8 if (STEPS - k) % 4 == 0 or k <= 2 else 3):
            x_l = m + (log_v / 2).exp() * noise()
            misfit = ((Y - prediction(x_l, low).flatten(1) @ MATRIX.T) ** 2).sum() / (2 * SIGMA**2)
            adam.zero_grad()
            energy(m, log_v, mean, deviation, misfit).backward()
            adam.step()
        x_l = m.detach() + (log_v.detach() / 2).exp() * noise()
        mean, deviation = between(x, x_l, t, low, s)
        x = mean + deviation * noise()


def dcps(x: Tensor, noise) -> Tensor:
    """Algorithm of DCPS: 3 blocks, 2 Langevin steps of 0.01, 2 steps of length 0.3."""

    def misfit(x_l: Tensor, low: float) -> Tensor:
        return ((VP.alpha(low) * Y - x_l.flatten(1) @ MATRIX.T) ** 2).sum() / (2 * SIGMA**2)

    def ahead(x: Tensor, time: float, low: float) -> Tensor:
        return x if time == low else between(x, prediction(x, time), time, 0.0, low)[0]

    for k in range(STEPS, 0, -1):
        t, s, low = k / STEPS, (k - 1) / STEPS, (k - 1) // 4 * 4 / STEPS
        if k % 4 == 0:
            for _ in range(2):
                leaf = x.clone().requires_grad_()
                (g,) = torch.autograd.grad(misfit(ahead(leaf, t, low), low), leaf)
                g = -g + (VP.alpha(t) * prediction(x, t) - x) / VP.sigma(t) ** 2
                size = g.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
                x = x + 0.01 * g / (1 + 0.01 * size) + math.sqrt(0.02) * noise()
        x0 = prediction(x, t)
        if k == 1:
            return x0
        mean, deviation = between(x, x0, t, 0.0, s)
        m, log_v = mean.clone().requires_grad_(), torch.full_like(mean, 2 * math.log(deviation)).requires_grad_()
        for _ in range(2):
            x_s = m + (log_v / 2).exp() * noise()
            slopes = torch.autograd.grad(energy(m, log_v, mean, deviation, misfit(ahead(x_s, s, low), low)), (m, log_v))
            with torch.no_grad():
                for value, slope in zip((m, log_v), slopes, strict=True):
                    value -= 0.3 * slope / slope.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        x = m.detach() + (log_v.detach() / 2).exp() * noise()


@pytest.mark.parametrize("family", ["exploding", "flow"])
@pytest.mark.parametrize(
    "transcription, sampler",
    [
        (mgps, MGPS(iterations=3, more=8, every=4, last=2, rate=0.05)),
        (dcps, DCPS(rate=0.3, langevin=2, gamma=0.01)),
    ],
    ids=["MGPS", "DCPS"],
)
def test_the_published_trajectory(transcription, sampler, family):
    """Theirs variance preserving in [-1, 1], ours in [0, 1] and of another family, with the same noise."""
    start = torch.randn(2, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(6))
    draws = Streams(8, "sampling", 2)
    theirs = transcription(start, lambda: draws.normal(start))
    measurement = Measurement(Dense(MATRIX, SHAPE), (Y + MATRIX.sum(1)) / 2, GaussianNoise(SIGMA / 2))
    times, schedule = [k / STEPS for k in range(STEPS, 0, -1)], Schedule(family)
    levels = [*(schedule.at(VP.sigma(t) / VP.alpha(t) / 2, 2.0) for t in times), Level(1.0, 0.0, 2.0)]

    def denoiser(u: Tensor, t: Level) -> Tensor:
        """x_t / vp_norm in [-1, 1] at the same sigma / alpha."""
        time = VP.time(2 * t.sigma_bar)
        return (prediction((2 * u - t.alpha) / t.vp_norm, time) + 1) / 2

    first = levels[0]
    run = Run(denoiser, levels, [Guidance(measurement)], Streams(8, "sampling", 2), schedule=schedule)
    ours = 2 * sampler(run, (start * first.vp_norm + first.alpha) / 2) - 1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["exploding", "flow"])
def test_a_bridge_is_the_conditional_law(family):
    """Of (x_s, x_t) given x_low, Gaussian conditioning of the forward process."""
    low, s, t = (Schedule(family).at(ratio) for ratio in (0.2, 0.7, 3.0))
    a, b, v = bridge(t, low, s)
    from_low, from_s = s.alpha / low.alpha, t.alpha / s.alpha
    noise_s = s.sigma**2 - (from_low * low.sigma) ** 2
    noise_t = t.sigma**2 - (t.alpha / low.alpha * low.sigma) ** 2
    gain = from_s * noise_s / noise_t
    assert (a, b) == pytest.approx((gain, from_low - gain * t.alpha / low.alpha))
    assert v**2 == pytest.approx(noise_s - gain * from_s * noise_s)


@pytest.mark.parametrize(
    "sampler, few, calls",
    [
        (MGPS(iterations=10, rate=0.1), MGPS(iterations=1, more=1, rate=0.1), 40 + 39 * 10 + 8 * 10),
        (DCPS(rate=0.5), DCPS(rate=0.05), 40 * 3 - 2 - 2 * 2 + 15),
    ],
    ids=["MGPS", "DCPS"],
)
def test_a_gaussian_s_posterior(sampler, few, calls):
    """Both approximate: the mean within a quarter of a deviation, variances within a half, nearer the more they do."""
    prior, matrix, count = random_prior(4), matrices(4)["random"], 500
    measurement = measure(prior, matrix, 0.3)
    law, made = prior.posterior(measurement), 0
    deviation = law.covariance().diag().sqrt()
    levels = [*(Level(1.0, 10 * 0.005 ** (i / 39)) for i in range(40)), Level(1.0, 0.0)]
    start = 10 * torch.randn(count, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(3))

    def denoiser(x: Tensor, t: Level) -> Tensor:
        nonlocal made
        made += 1
        return prior.denoiser(x, t)

    def error(sampler) -> float:
        x = sampler(Run(denoiser, levels, [Guidance(measurement)], Streams(4, "sampling")), start).flatten(1)
        if made == calls:
            assert ((x.std(0) / deviation) ** 2 - 1).abs().max() < 0.5
        return ((x.mean(0) - law.mean.flatten()) / deviation).square().mean().sqrt().item()

    found = error(sampler)
    assert made == calls
    assert found < 0.25
    assert found < 0.7 * error(few)
