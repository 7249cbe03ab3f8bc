"""Methods that are made for latents, on the linear autoencoder whose posterior is known."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from patch_codec import F64, latent_prior
from test_latent import CODEC, LATENT, SIDE, pictured, state

from posterior.algebra.streams import Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run, combined
from posterior.diffusion.state import Step
from posterior.guidance.base import Guidance
from posterior.guidance.ddnm import DDNM
from posterior.guidance.diffpir import DiffPIR
from posterior.guidance.dps import DPS
from posterior.guidance.latent import decoded
from posterior.guidance.mmps import MMPS
from posterior.guidance.mpgd import MPGD
from posterior.guidance.psld import PSLD
from posterior.guidance.resample import CLEAN, ReSample, fitted
from posterior.guidance.stsl import STSL
from posterior.guidance.treg import TReg
from posterior.measurement.decoded import Decoded
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.convolution import convolution
from posterior.operators.kernels import gaussian
from posterior.priors.gaussian import dense_matrix
from posterior.samplers.ddim import GuidedDDIM


def uneven(measurement: Measurement) -> Measurement:
    """With half of y 25 times as noisy as the other half."""
    deviation = torch.full_like(measurement.y, 0.5)
    deviation.flatten()[: deviation.numel() // 2] = 0.02
    return replace(measurement, noise=GaussianNoise(deviation))


@pytest.mark.parametrize("operator", ["upscaling", "blur"])
@pytest.mark.parametrize("even", [True, False])
def test_psld_is_its_loss_s_gradient(operator: str, even: bool):
    """Cases C1 and C2. Both terms by hand: D z = W z + c, E x = W^+ (x - c); see the module for the loss."""
    measurement, t = pictured("upscaling", 0.1), Level(1.0, 0.7)
    if operator == "blur":
        measurement = Measurement.simulate(
            convolution(gaussian(0.8).double(), "reflect"),
            torch.rand(1, 3, SIDE, SIDE, dtype=F64, generator=torch.Generator().manual_seed(5)), GaussianNoise(0.02), 0,
        )  # fmt: skip
    measurement = measurement if even else uneven(measurement)
    at = state(t, batch=1)
    shift = combined([decoded(PSLD(measurement, 0.8, 0.3), CODEC)], at).shift
    A = dense_matrix(measurement.operator, (3, SIDE, SIDE), torch.zeros((), dtype=F64))
    c = CODEC.decode(torch.zeros(1, *LATENT, dtype=F64)).flatten()
    units = torch.eye(64, dtype=F64).reshape(-1, *LATENT)
    W = CODEC.decode(units).flatten(1).T - c[:, None]
    back, z, y = torch.linalg.pinv(W), at.x0.flatten(), measurement.y.flatten()
    weights = torch.ones_like(y) if even else 1 / measurement.noise.sigma.flatten()
    weights = weights * len(y) ** 0.5 / weights.norm()
    x, WA = W @ z + c, weights[:, None] * A
    r = weights * (y - A @ x)
    lift = WA.T / torch.linalg.matrix_norm(WA, 2) ** 2
    glue = z - back @ (x + lift @ r - c)
    gradient = -0.8 * 2 * W.T @ WA.T @ r / r.norm()
    gradient += 0.3 * (torch.eye(64, dtype=F64) - back @ (W - lift @ WA @ W)).T @ glue / glue.norm()
    expected = -t.vp_norm * at.vjp(gradient.reshape(1, *LATENT))
    # the operator's norm is a power iteration's
    torch.testing.assert_close(shift, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    assert torch.equal(combined([decoded(PSLD(measurement), CODEC)], at).x0, at.x0)


def step_of(t: Level, s: Level, progress: float, index: int, batch: int) -> Step:
    at = state(t, False, batch=batch)
    zero = torch.zeros_like(at.x0)
    return Step(t, s, at.x0, zero, 0.0, zero, Streams(3, "sampling", batch).normal, progress=progress, index=index)


@pytest.mark.parametrize("progress", [0.5, 0.8])
def test_resample_draws_around_a_consistent_prediction(progress):
    """The draws' mean and variance are the product of N(alpha_s x0(y), sigma_s^2) and N(x_s, v_r^2)."""
    measurement, t, s = pictured("upscaling", 0.1), Level(0.8, 0.6), Level(0.9, 0.45)
    block = decoded(ReSample(measurement, gamma=2.0, iterations=10), CODEC)
    step = step_of(t, s, progress, 20, 200)
    step.x0 = step.x0[:1].expand_as(step.x0)
    x_s = torch.full((200, *LATENT), 0.2, dtype=F64)
    drawn = block.transition(x_s, step)
    if progress < 2 / 3:
        x0 = CODEC.encode(fitted(measurement, CODEC.decode(step.x0[:1]), 40, 1e-2))
    else:
        composed = replace(measurement, operator=Decoded(measurement.operator, CODEC))
        x0 = fitted(composed, step.x0[:1], 10, 5e-3)
    assert (x0 - step.x0[:1]).abs().max() > 0.02
    # ancestral variance of the two levels as variance-preserving ones, the paper's alpha_bar
    bar_t, bar_s = (level.alpha**2 / (level.alpha**2 + level.sigma**2) for level in (t, s))
    v = 2.0 * (1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s) * s.vp_norm**2
    variance = 1 / (1 / v + 1 / s.sigma**2)
    mean = variance * (s.alpha * x0[0] / s.sigma**2 + 0.2 / v)
    assert drawn.var(0).mean().item() == pytest.approx(variance, rel=0.05)
    assert (drawn.mean(0) - mean).abs().max() < 4.5 * (variance / 200) ** 0.5


def test_resample_has_three_stages_and_ends_consistent():
    measurement = pictured("inpainting", 0.0)
    block = decoded(ReSample(measurement, every=10, iterations=500), CODEC)
    t, s = Level(1.0, 2.0), Level(1.0, 1.5)
    x_s = torch.zeros(2, *LATENT, dtype=F64)
    assert block.transition(x_s, step_of(t, s, 0.2, 20, 2)) is x_s
    assert block.transition(x_s, step_of(t, s, 0.5, 21, 2)) is x_s
    assert not torch.equal(block.transition(x_s, step_of(t, s, 0.5, 20, 2)), x_s)
    x = latent_prior().sample(2, 9)
    last = block.transition(x, step_of(Level(1.0, 0.1), Level(1.0, 0.0), 0.99, 99, 2))
    rms = measurement.residual_rms(CODEC.decode(last))
    assert (rms < 0.4 * measurement.residual_rms(CODEC.decode(x))).all()


def test_treg_follows_the_published_code():
    """Variance-preserving latents, transcribed: DDIM, and every third step decode, solve, encode, blend, renoise."""
    measurement, steps, lam = pictured("upscaling", 0.1), 12, 1e-2
    A = dense_matrix(measurement.operator, (3, SIDE, SIDE), torch.zeros((), dtype=F64))
    bars = torch.linspace(0.02, 0.98, steps, dtype=F64).tolist() + [1.0]
    z = torch.randn(2, *LATENT, dtype=F64, generator=torch.Generator().manual_seed(0))
    draws, x, prior = Streams(1, "sampling", 2), z, latent_prior()
    for k, (bar, after) in enumerate(zip(bars[:-1], bars[1:], strict=True)):
        z0 = prior.denoiser(x, Level(bar**0.5, (1 - bar) ** 0.5))
        e = (x - bar**0.5 * z0) / (1 - bar) ** 0.5
        if k % 3 == 0 and k / steps >= 0.15:
            image = CODEC.decode(z0).flatten(1)
            b = measurement.y.flatten(1) @ A + lam * image
            image = torch.linalg.solve(A.T @ A + lam * torch.eye(A.shape[1], dtype=F64), b.T).T
            z_y = CODEC.encode(image.reshape(2, 3, SIDE, SIDE))
            z0 = after * z_y + (1 - after) * z0
            x = after**0.5 * z0 + (1 - after) * e + ((1 - after) * after) ** 0.5 * draws.normal(x)
        else:
            x = after**0.5 * z0 + (1 - after) ** 0.5 * e
    levels = [Level(bar**0.5, (1 - bar) ** 0.5) for bar in bars]
    run = Run(prior.denoiser, levels, [decoded(TReg(measurement, 3, lam), CODEC)], Streams(1, "sampling", 2))
    torch.testing.assert_close(GuidedDDIM()(run, z), x, rtol=1e-5, atol=1e-5)


def test_the_optimiser_stops_each_sample_at_the_noise():
    measurement = pictured("inpainting", 0.05)
    exact = latent_prior().sample(1, 4)  # what was measured: nothing is left to do
    start = torch.cat([exact, latent_prior().sample(1, 8)])
    both = fitted(replace(measurement, operator=Decoded(measurement.operator, CODEC)), start, 800, 4e-2)
    rms = measurement.residual_rms(CODEC.decode(both))
    assert rms[0] < 0.056 and (both[0] - exact[0]).abs().max() < 0.3
    assert rms[1] <= 0.0501 and CLEAN < 0.05
    alone = fitted(replace(measurement, operator=Decoded(measurement.operator, CODEC)), start[1:], 800, 4e-2)
    torch.testing.assert_close(alone, both[1:], rtol=1e-5, atol=1e-6)


def test_a_whole_run_of_each_latent_method_fits_better_than_none():
    measurement = pictured("inpainting", 0.05)
    prior, levels = latent_prior(), [Level(1.0, v) for v in (20.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.03, 0.0)]
    x = 20 * torch.randn(2, *LATENT, dtype=F64, generator=torch.Generator().manual_seed(0))

    def fit(*blocks: Guidance) -> float:
        z = GuidedDDIM(1.0)(Run(prior.denoiser, levels, blocks, Streams(1, "sampling", 2)), x)
        assert z.isfinite().all()
        return measurement.fit(CODEC.decode(z)).max().item()

    unguided = fit()
    for method in (PSLD, partial(ReSample, every=2), DPS, STSL, TReg, partial(MPGD, zeta=1.0), DDNM, DiffPIR, MMPS):
        assert fit(decoded(method(measurement), CODEC)) < 0.8 * unguided
