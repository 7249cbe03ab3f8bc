"""Particle filters against closed forms, plain transcriptions, and themselves in other chunks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from guidance_rows import F64, matrices, measure, one_thread, random_prior  # noqa: F401
from torch import Tensor

from posterior.algebra.refusal import Refusal
from posterior.algebra.streams import SharedStreams, Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.diffusion.schedule import Schedule
from posterior.guidance.base import Guidance
from posterior.guidance.lgd import LGDMC
from posterior.guidance.mmps import MMPS
from posterior.guidance.pigdm import PiGDM
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import ROUNDING, GaussianNoise
from posterior.operators.dense import Dense
from posterior.operators.inpainting import Inpainting
from posterior.operators.jpeg import JPEG
from posterior.priors.mixture import GaussianMixture
from posterior.samplers.ddsmc import DDSMC
from posterior.samplers.fps import FPS
from posterior.samplers.matched import MatchedTDS
from posterior.samplers.mcgdiff import MCGDiff
from posterior.samplers.particles import ParticleSampler, effective_number, systematic
from posterior.samplers.smcdiff import SMCDiff
from posterior.samplers.tds import TDS

MANY, EXPLODING = 10**6, Schedule()
CENTRES = torch.tensor([[2.0, 0.5], [-2.0, 1.5], [0.5, -2.0]], dtype=F64).reshape(3, 1, 1, 2)
MIXTURE = GaussianMixture.from_centres(CENTRES, 0.5, torch.tensor([0.5, 0.2, 0.3]))


def falling(steps: int, first: float, last: float, schedule: Schedule = EXPLODING) -> list[Level]:
    """Levels in equal ratios of sigma / alpha, and 0."""
    ratios = [first * (last / first) ** (i / (steps - 1)) for i in range(steps)]
    return [*(schedule.at(ratio) for ratio in ratios), Level(1.0, 0.0)]


def sampled(sampler: ParticleSampler, denoiser, block: Guidance, levels, count: int, seed: int = 1):
    """Samples `count D`, and the record."""
    shape = block.measurement.image_shape
    run = Run(denoiser, levels, [block], SharedStreams(seed, "test", count))
    start = torch.randn(count, *shape, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return sampler(run, levels[0].sigma * start).flatten(1), run.record


def model_evidence(prior, measurement: Measurement, matrix: Tensor, sampler: ParticleSampler, levels) -> float:
    """log p(y) of the chain of steps itself, which is Gaussian for a Gaussian prior: dense algebra."""
    size = prior.mean.numel()
    mean, eye, units = torch.zeros(size, dtype=F64), torch.eye(size, dtype=F64), torch.eye(size, dtype=F64)
    covariance = levels[0].sigma ** 2 * eye
    for t, s in zip(levels[:-1], levels[1:], strict=True):
        stay, gain, v = sampler.kernel(t, s)
        offset = prior.denoiser(torch.zeros(1, *prior.mean.shape, dtype=F64), t).flatten()
        slope = (prior.denoiser(units.reshape(size, *prior.mean.shape), t).flatten(1) - offset).T
        step = stay * eye + gain * slope
        mean, covariance = step @ mean + gain * offset, step @ covariance @ step.T + v**2 * eye
    sigma = torch.as_tensor(measurement.noise.sigma, dtype=F64).expand(measurement.y.shape).flatten()
    law = torch.distributions.MultivariateNormal(matrix @ mean, matrix @ covariance @ matrix.T + torch.diag(sigma**2))
    return law.log_prob(measurement.y[0].flatten()).item()


GUIDED = {
    "unguided": (TDS(), Guidance),
    "Pi-GDM": (TDS(), PiGDM),
    "MMPS": (TDS(), lambda m: MMPS(m, 9)),
    "matched": (MatchedTDS(), Guidance),
    "matched, uneven": (MatchedTDS(), Guidance),
}


@pytest.mark.parametrize("name", GUIDED)
def test_the_evidence_is_unbiased_whatever_the_guidance(name):
    sampler, block = GUIDED[name]
    prior, matrix, count = random_prior(2), matrices(2)["random"], 1500
    measurement = measure(prior, matrix, 0.5)
    if "uneven" in name:  # whitened on the way, which p(y) must not show
        sigma = torch.linspace(0.4, 0.6, measurement.y.numel(), dtype=F64).reshape(measurement.y.shape)
        measurement = replace(measurement, noise=GaussianNoise(sigma))
    levels = falling(12, 10.0, 0.05)
    exact = model_evidence(prior, measurement, matrix, TDS(), levels)
    _, record = sampled(replace(sampler, count=8, batch=MANY), prior.denoiser, block(measurement), levels, count)
    ratio = (record["log-evidence of each"] - exact).exp()
    assert abs(ratio.mean() - 1) < 3 * ratio.std() / count**0.5
    assert abs(record["log-evidence"] - ratio.mean().log() - exact) < 1e-9
    # the steps are not the prior's own: a dozen of them are within a quarter of it
    assert abs(exact - prior.log_evidence(measurement)) < 0.25


def test_the_evidence_tends_to_the_prior_s():
    prior, matrix, count = random_prior(2), matrices(2)["random"], 500
    measurement = measure(prior, matrix, 0.5)
    for sampler in (TDS(count=16, batch=MANY), DDSMC(count=32, batch=MANY)):
        _, record = sampled(sampler, prior.denoiser, PiGDM(measurement), falling(200, 30.0, 0.02), count)
        ratio = (record["log-evidence of each"] - prior.log_evidence(measurement)).exp()
        assert abs(ratio.mean() - 1) < 3 * ratio.std() / count**0.5 + 0.03  # what 200 steps leave


EXACT = {
    "TDS": (TDS(), PiGDM),
    "TDS, wide": (TDS(deviation=3.0), PiGDM),
    "TDS, unguided": (TDS(deviation=3.0), Guidance),
    "TDS, matched": (MatchedTDS(), Guidance),
    "MCGDiff": (MCGDiff(), Guidance),
    "DDSMC": (DDSMC(), Guidance),
}


def mixture_problem() -> tuple[Measurement, GaussianMixture]:
    measurement = Measurement(
        Dense(torch.tensor([[0.6, 0.8]], dtype=F64), (1, 1, 2)), torch.tensor([[0.2]], dtype=F64), GaussianNoise(1.0)
    )
    return measurement, MIXTURE.posterior(measurement)


def shares(x: Tensor) -> Tensor:
    """How many samples are nearest to each centre, a share."""
    return torch.cdist(x, CENTRES.flatten(1)).argmin(1).bincount(minlength=3) / len(x)


def wasserstein(a: Tensor, b: Tensor) -> float:
    """Sliced over 16 directions."""
    angles = torch.arange(16, dtype=F64) * math.pi / 16
    directions = torch.stack([angles.cos(), angles.sin()])
    return ((a @ directions).sort(0).values - (b @ directions).sort(0).values).abs().mean().item()


def exact_samples(posterior: GaussianMixture, count: int = 20000) -> Tensor:
    g = torch.Generator().manual_seed(5)
    chosen = torch.multinomial(posterior.weights, count, replacement=True, generator=g)
    means = torch.stack([part.mean.flatten() for part in posterior.components])
    factors = torch.stack([torch.linalg.cholesky(part.covariance()) for part in posterior.components])
    z = torch.randn(count, 2, generator=g, dtype=F64)
    return means[chosen] + torch.einsum("nij,nj->ni", factors[chosen], z)


@pytest.mark.parametrize("name", EXACT)
def test_many_particles_have_the_posterior_of_a_mixture(name):
    """The level where a direction is as noisy as y is among them, as MCGDiff has it, which also needs more steps."""
    sampler, block = EXACT[name]
    measurement, posterior = mixture_problem()
    steps, particles, count = (200, 16, 1500) if name == "MCGDiff" else (60, 32, 2000)
    levels = sorted({*falling(steps, 30.0, 0.03), Level(1.0, 1.0)}, key=lambda level: -level.sigma)
    sampler = replace(sampler, count=particles, batch=MANY)
    x, record = sampled(sampler, MIXTURE.denoiser, block(measurement), levels, count)
    assert (shares(x) - shares(exact_samples(posterior))).abs().max() < 0.05
    assert wasserstein(x, exact_samples(posterior)[:count]) < 0.13
    assert len(record["effective sample size"]) == len(levels) and max(record["effective sample size"]) <= particles


def test_the_error_falls_with_the_particles():
    """Bias falls as 1 / N; without guidance and with a foresight that is much too wide, so that there is some."""
    measurement, posterior = mixture_problem()
    measurement = replace(measurement, noise=GaussianNoise(0.3))
    posterior, levels = MIXTURE.posterior(measurement), falling(60, 30.0, 0.03)
    exact, counts = exact_samples(posterior, 4000), [1, 4, 16]
    expected, errors = shares(exact), []
    for count in counts:
        sampler = TDS(count=count, deviation=30.0, batch=MANY)
        x, _ = sampled(sampler, MIXTURE.denoiser, Guidance(measurement), levels, 4000)
        errors.append((wasserstein(x, exact), (shares(x) - expected).abs().max().item()))
    for error in zip(*errors, strict=True):
        slope = (math.log(error[-1]) - math.log(error[0])) / math.log(counts[-1] / counts[0])
        assert slope < -0.5


KINDS = {
    "TDS": (TDS(count=5), lambda m: MMPS(m, 3)),
    "TDS with own draws": (TDS(count=5), lambda m: LGDMC(m, 0.1, seed=1)),
    "settled and split": (TDS(count=5, split=2, settle=3), PiGDM),
    "matched": (MatchedTDS(count=5), Guidance),
    "MCGDiff": (MCGDiff(count=5), Guidance),
    "FPS": (FPS(count=5), Guidance),
    "DDSMC": (DDSMC(count=5, eta=0.5), Guidance),
    "SMCDiff": (SMCDiff(count=5), Guidance),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("schedule", [Schedule(), Schedule("flow")], ids=["exploding", "flow"])
@pytest.mark.parametrize("early", [False, True], ids=["", "ends early"])
def test_a_sample_is_the_same_alone_and_in_any_chunk(name, schedule, early):
    """Three measurements with a mask each; also where the run ends above sigma 0, as the first part of split levels."""
    sampler, block = KINDS[name]
    prior, count = random_prior(2), 3
    masks = (torch.rand(count, 1, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(1)) > 0.5).to(F64)
    noise = GaussianNoise(0.0 if name == "SMCDiff" else 0.3)
    measurement = Measurement.simulate(Inpainting(masks), prior.sample(count, 2), noise, 3)
    levels = falling(6, 6.0, 0.1, schedule)[: -3 if early else None]
    start = torch.randn(count, 1, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(4)) * levels[0].sigma

    def made(rows: list[int], batch: int) -> Tensor:
        blocks = [block(measurement.take(torch.tensor(rows)))]
        calls = []
        run = Run(lambda x, t: (calls.append(len(x)), prior.denoiser(x, t))[1], levels, blocks, schedule=schedule)
        run.draw = Streams(5, "test", rows)
        x = replace(sampler, batch=batch)(run, start[rows])
        assert max(calls) <= batch and torch.isfinite(x).all()
        return x

    whole = made([0, 1, 2], 100)
    parts = 5 if name == "TDS with own draws" else 2  # of one sample have the numbers of one stream in another order
    for rows, batch in (([0, 1, 2], parts), ([0, 1, 2], 7), ([1], 100)):
        assert (made(rows, batch) - whole[rows]).abs().max() < 1e-8


def test_smcdiff_keeps_what_was_measured():
    prior = random_prior(2)
    hole = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]], dtype=F64)
    measurement = Measurement.simulate(Inpainting(hole), prior.sample(1, 2), GaussianNoise(0.0), 3)
    x, _ = sampled(SMCDiff(count=8, batch=MANY), prior.denoiser, Guidance(measurement), falling(150, 20.0, 0.02), 800)
    seen, hidden = hole.flatten() == 0, hole.flatten() == 1
    law = prior.posterior(replace(measurement, noise=GaussianNoise(1e-6)))
    deviation = law.covariance().diag()[hidden].sqrt()
    assert (x[:, seen] - measurement.y.flatten()[seen]).abs().max() < 6 * ROUNDING
    # five standard errors, and the bias of 150 steps and 8 particles
    assert ((x.mean(0) - law.mean.flatten())[hidden].abs() < (5 * 800**-0.5 + 0.1) * deviation).all()
    assert (x[:, hidden].std(0) / deviation - 1).abs().max() < 5 * 1600**-0.5 + 0.1


def test_fps_varies_too_little():
    """The known bias: noise that is one and the same is averaged away."""
    prior, matrix = random_prior(2), torch.eye(4, dtype=F64)
    measurement = measure(prior, matrix, 0.5)
    levels = falling(60, 20.0, 0.03)
    ratios = []
    for sampler in (FPS(count=8, batch=MANY), TDS(count=8, batch=MANY)):
        x, _ = sampled(sampler, prior.denoiser, PiGDM(measurement), levels, 1000)
        ratios.append((x.var(0) / prior.posterior(measurement).covariance().diag()).mean().item())
    assert ratios[0] < 0.6 and abs(ratios[1] - 1) < 0.15


def test_systematic_resampling():
    w = torch.tensor([[0.1, 0.6, 0.0, 0.3], [0.25, 0.25, 0.25, 0.25]], dtype=F64)
    u = torch.rand(5000, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    assert (effective_number(w.log()) - torch.tensor([1 / 0.46, 4.0], dtype=F64)).abs().max() < 1e-9
    for row in w:
        drawn = systematic(row.log().expand(5000, 4), u)
        counts = torch.stack([(drawn == i).sum(1) for i in range(4)], 1)
        assert ((counts >= (4 * row).floor()) & (counts <= (4 * row).ceil())).all()
        assert (counts.double().mean(0) - 4 * row).abs().max() < 5 * 0.5 / 5000**0.5


def test_refusals():
    hole = torch.eye(4)[None, None]
    noisy = Measurement(Inpainting(hole), torch.zeros(1, 3, 4, 4), GaussianNoise(0.1))
    jpeg = Measurement(JPEG(30), torch.rand(1, 3, 16, 16), GaussianNoise(0.1))
    levels = [Level(1.0, 1.0), Level(1.0, 0.0)]
    for sampler, measurement, words in (
        (SMCDiff(), noisy, "takes what was measured as exact"),
        (MCGDiff(), jpeg, "needs singular values"),
        (FPS(), jpeg, "needs singular values"),
        (DDSMC(), jpeg, "needs singular values"),
        (MatchedTDS(), jpeg, "needs a linear operator"),
        (MatchedTDS(), replace(noisy, y=torch.zeros(1, 5, 4, 4)), "these are 80"),
    ):
        with pytest.raises(Refusal, match=words):
            sampler(Run(lambda x, t: x, levels, [Guidance(measurement)]), torch.zeros(1, 3, 4, 4))


def test_tds_takes_damage_that_is_not_linear():
    jpeg = Measurement(JPEG(30), torch.rand(1, 3, 16, 16), GaussianNoise(0.1))
    run = Run(lambda x, t: 0.5 * x, falling(4, 2.0, 0.1), [PiGDM(jpeg)])
    assert torch.isfinite(TDS(count=3)(run, torch.randn(1, 3, 16, 16))).all()
