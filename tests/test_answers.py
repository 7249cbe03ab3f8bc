"""Mean, spread, quantiles, MAP, whiteness and quality against closed forms and scikit-image."""

from __future__ import annotations

import pytest
import torch
from guidance_rows import F64, matrices, measure, one_thread, random_prior  # noqa: F401
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from posterior.algebra.refusal import Refusal
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.diffusion.schedule import Schedule
from posterior.guidance.base import Guidance
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.measurement.quality import psnr, ssim
from posterior.measurement.samples import Moments, diversity, interval, perception_distortion
from posterior.measurement.whiteness import whiteness
from posterior.operators.convolution import CircularConvolution
from posterior.operators.inpainting import Inpainting
from posterior.operators.jpeg import JPEG
from posterior.operators.kernels import gaussian
from posterior.operators.pointwise import Gamma
from posterior.photos import load_photo
from posterior.priors.gaussian import Gaussian
from posterior.samplers.map_estimate import MAPEstimate


def test_moments_in_turn_are_those_of_all_samples_at_once():
    prior = random_prior(4)
    posterior = prior.posterior(measure(prior, matrices(4)["mask"], 0.3))
    samples = posterior.sample(64, 1)
    moments = Moments()
    for piece in samples.split([1, 5, 20, 38]):
        moments.add(piece)
    torch.testing.assert_close(moments.mean, samples.mean(0))
    torch.testing.assert_close(moments.deviation, samples.std(0))
    assert moments.count == 64


def test_mean_deviation_and_intervals_are_the_posterior_s():
    prior = random_prior(4)
    posterior = prior.posterior(measure(prior, matrices(4)["random"], 0.3))
    samples, n = posterior.sample(400, 2), 400
    moments = Moments()
    moments.add(samples)
    scale = posterior.covariance().diag().sqrt().reshape(1, 4, 4)
    assert ((moments.mean - posterior.mean).abs() < 5 * scale / n**0.5).all()
    assert ((moments.deviation / scale - 1).abs() < 5 / (2 * n) ** 0.5).all()
    # the truth is one more sample: covered with the level that the interval says, over many of them
    truths = posterior.sample(500, 3)
    for level in (0.5, 0.9):
        found = interval(samples[:19], level)
        assert found.level == pytest.approx(level, abs=0.06)
    many = [interval(posterior.sample(19, seed), 0.9) for seed in range(100, 300)]
    inside = sum(each.coverage(truths[k]) for k, each in enumerate(many)) / len(many)
    assert inside == pytest.approx(many[0].level, abs=0.02)  # 3200 numbers, correlated


def test_diversity_names_the_two_that_differ_most():
    samples = torch.zeros(4, 1, 2, 2)
    samples[1] += 0.1
    samples[3] -= 0.2
    found = diversity(samples)
    assert found.pair == (1, 3) and found.widest == pytest.approx(0.3)
    assert found.mean == pytest.approx((0.1 + 0 + 0.2 + 0.1 + 0.3 + 0.2) / 6)
    with pytest.raises(Refusal, match="at least two samples"):
        diversity(samples[:1])


def test_perception_and_distortion_of_a_gaussian():
    """The squared error is (1 + a^2) tr C, and the law of the result N(., C_mean + a^2 C): at a = 1 the prior's."""
    prior, count = random_prior(4), 4000
    matrix, sigma = matrices(4)["random"], 0.4
    truth = prior.sample(count, 1)
    y = truth.flatten(1) @ matrix.T + sigma * torch.randn(count, 8, dtype=F64, generator=torch.manual_seed(2))
    C, m = prior.covariance(), prior.mean.flatten()
    gain = C @ matrix.T @ torch.linalg.inv(matrix @ C @ matrix.T + sigma**2 * torch.eye(8, dtype=F64))
    posterior = C - gain @ matrix @ C
    mean = m + (y - m @ matrix.T) @ gain.T
    root = torch.linalg.cholesky(posterior + 1e-12 * torch.eye(16, dtype=F64))
    sample = mean + torch.randn(count, 16, dtype=F64, generator=torch.manual_seed(3)) @ root.T
    for a in (0.0, 0.5, 1.0):
        x = perception_distortion(mean, sample, a)
        error = (x - truth.flatten(1)).square().sum(1).mean() / posterior.trace()
        assert error.item() == pytest.approx(1 + a**2, rel=0.05)
        law = C - posterior + a**2 * posterior
        assert (x.T.cov() - law).norm() < 0.08 * C.norm()


@pytest.mark.parametrize("schedule", [Schedule(), Schedule("flow")], ids=["exploding", "flow"])
@pytest.mark.parametrize("kind", ["mask", "random"])
def test_the_map_of_a_gaussian_is_its_mean(kind, schedule):
    """At the last level that of the prior widened by its noise, exactly."""
    prior, matrix, sigma, last = random_prior(4), matrices(4)[kind], 0.3, 0.6
    measurement = measure(prior, matrix, sigma)
    wide = Gaussian.from_covariance(prior.mean, prior.covariance() + last**2 * torch.eye(16, dtype=F64))
    expected = wide.posterior(measurement).mean
    levels = [*(schedule.at(ratio) for ratio in (3.0, 1.0, *[last] * 120)), Level(1.0, 0.0)]
    run = Run(prior.denoiser, levels, [Guidance(measurement)], schedule=schedule)
    x = MAPEstimate(inner=10, step=1.0, stop=0.0)(run, torch.zeros(2, 1, 4, 4, dtype=F64))
    torch.testing.assert_close(x, expected.expand(2, -1, -1, -1), rtol=1e-5, atol=1e-5)


def test_the_map_of_damage_that_is_not_linear_is_stationary():
    prior, t = random_prior(4), Level(1.0, 0.3)
    measurement = Measurement(Gamma(1.5), 0.5 + 0.1 * prior.sample(1, 3), GaussianNoise(0.2))
    levels = [*[t] * 400, Level(1.0, 0.0)]
    start = torch.full((1, 1, 4, 4), 0.5, dtype=F64)
    x = MAPEstimate(inner=5, step=1.0, stop=0.0)(Run(prior.denoiser, levels, [Guidance(measurement)]), start)
    y, pull_back = measurement.operator.linearise(x)
    gradient = (prior.denoiser(x, t) - x) / t.sigma**2 + pull_back(measurement.y - y) / 0.04
    free = (x > 0.01) & (x < 0.99)
    assert free.any() and gradient[free].abs().max() < 1e-3


def texture(side: int = 20) -> Gaussian:
    """A smooth texture: exponential covariance, 3 pixels."""
    place = torch.stack(torch.meshgrid(*[torch.arange(side, dtype=F64)] * 2, indexing="ij"), -1).reshape(-1, 2)
    covariance = 0.04 * torch.exp(-torch.cdist(place, place) / 3)
    return Gaussian.from_covariance(torch.full((1, side, side), 0.5, dtype=F64), covariance)


def test_residuals_are_white_for_the_right_kernel_and_not_for_a_wrong_one():
    """200 problems: false alarms at 5 %, and a blur that is 30 % off is seen in four of five."""
    prior, sigma, count = texture(), 0.01, 200
    truth = prior.sample(count, 1)
    mean, covariance = prior.mean.flatten(), prior.covariance()
    noise = torch.randn(count, 400, dtype=F64, generator=torch.manual_seed(2))
    z = torch.randn(count, 400, dtype=F64, generator=torch.manual_seed(3))
    p_values = {}
    for width in (1.0, 1.3):
        blurs = {w: CircularConvolution(gaussian(w).double()[..., 1:-1, 1:-1]) for w in (1.0, width)}
        A = {w: blur(torch.eye(400, dtype=F64).reshape(-1, 1, 20, 20)).flatten(1).T for w, blur in blurs.items()}
        y = truth.flatten(1) @ A[1.0].T + sigma * noise
        system = A[width] @ covariance @ A[width].T + sigma**2 * torch.eye(400, dtype=F64)
        gain = torch.linalg.solve(system, A[width] @ covariance).T
        left = covariance - gain @ A[width] @ covariance
        values, vectors = torch.linalg.eigh(left)
        sample = mean + (y - mean @ A[width].T) @ gain.T + z @ (vectors * values.clamp_min(0).sqrt()).T
        measurement = Measurement(blurs[width], y.reshape(-1, 1, 20, 20), GaussianNoise(sigma))
        p_values[width] = whiteness(measurement, sample.reshape(-1, 1, 20, 20)).p_value
    # 5 % of 200 is 10 +- 3.1
    assert (p_values[1.0] < 0.05).double().mean() < 0.05 + 3.5 * 0.0154
    assert (p_values[1.3] < 0.05).double().mean() > 0.8


def test_only_what_was_measured_counts_as_residual():
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:20, 8:20] = 1
    x = torch.rand(4, 3, 32, 32, generator=torch.manual_seed(1))
    measurement = Measurement.simulate(Inpainting(mask), x, GaussianNoise(0.1), 2)
    found = whiteness(measurement, x + 5 * mask)
    assert found.p_value.min() > 1e-3 and (found.residual * mask).abs().max() == 0
    assert found.autocorrelation.shape == (4, 5, 5) and (found.autocorrelation[:, 2, 2] - 1).abs().max() < 1e-12
    with pytest.raises(Refusal, match="no noise"):
        whiteness(Measurement(JPEG(50), x, GaussianNoise(0.0)), x)


def test_quality_is_scikit_image_s():
    photo = load_photo("flower", 96).movedim(-1, 1)[..., :80]
    noisy = torch.cat([photo + s * torch.randn(photo.shape, generator=torch.manual_seed(1)) for s in (0.02, 0.1)])
    for i in range(2):
        a, b = (each.movedim(0, -1).double().numpy() for each in (noisy[i], photo[0]))
        theirs = structural_similarity(
            a, b, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert ssim(noisy, photo)[i].item() == pytest.approx(theirs, abs=1e-7)
        assert psnr(noisy, photo)[i].item() == pytest.approx(peak_signal_noise_ratio(b, a, data_range=1.0), abs=1e-9)
    with pytest.raises(Refusal, match="same size"):
        ssim(noisy, photo[..., :-1])
