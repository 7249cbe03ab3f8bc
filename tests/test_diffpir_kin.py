"""FLOWER and LATINO, transcribed from their papers, are DiffPIR with other settings: the same trajectory."""

from __future__ import annotations

import torch
from guidance_rows import F64, matrices, measure, one_thread, random_prior  # noqa: F401
from torch import Tensor

from posterior.algebra.streams import Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.diffusion.schedule import Schedule
from posterior.guidance.diffpir import DiffPIR
from posterior.guidance.latent import decoded
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.dense import Dense
from posterior.priors.mixture import GaussianMixture
from posterior.samplers.ddim import GuidedDDIM

EYE = torch.eye(16, dtype=F64)
MATRIX = matrices(4)["random"]


def mixture(side: int = 4) -> GaussianMixture:
    return GaussianMixture([random_prior(side, seed) for seed in (0, 1, 2)], torch.tensor([0.5, 0.3, 0.2], dtype=F64))


def test_flower_with_its_perturbation():
    """Algorithm 1 of FLOWER, their time from noise (0) to the picture (1): flow step, Gaussian draw, flow back."""
    prior, sigma, steps = mixture(), 0.3, 8
    measurement = measure(random_prior(4), MATRIX, sigma)
    start = torch.randn(2, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(6))
    draws = Streams(8, "sampling", 2)
    x = start
    for k in range(steps):
        t, dt = k / steps, 1 / steps
        x0 = prior.denoiser(x, Level(t, 1 - t))
        x1 = (x + (1 - t) * (x0 - x) / (1 - t)).flatten(1)  # velocity (x0 - x) / (1 - t)
        nu = (1 - t) / (t**2 + (1 - t) ** 2) ** 0.5
        system = MATRIX.T @ MATRIX / sigma**2 + EYE / nu**2
        n2 = draws.normal(start).flatten(1)
        n1 = draws.normal(measurement.y.expand(2, -1))
        right = measurement.y @ MATRIX / sigma**2 + x1 / nu**2 + n1 @ MATRIX / sigma + n2 / nu
        m = torch.linalg.solve(system, right.T).T.reshape(start.shape)
        x = (t + dt) * m + ((1 - t - dt) * draws.normal(start) if k < steps - 1 else 0.0)
    schedule = Schedule("flow")
    levels = [schedule.level(1 - k / steps) for k in range(steps)] + [Level(1.0, 0.0)]
    run = Run(prior.denoiser, levels, [DiffPIR(measurement, deviation=1.0, draw=True)], Streams(8, "sampling", 2))
    torch.testing.assert_close(GuidedDDIM(1.0, "zeta")(run, start), x, rtol=1e-6, atol=1e-6)


class Codec:
    """Latents of 9 numbers, pictures in [0, 1] of 16: an isometry of latents to [-1, 1]."""

    def __init__(self):
        g = torch.Generator().manual_seed(0)
        self.basis = torch.linalg.qr(torch.randn(16, 9, dtype=F64, generator=g))[0]

    def decode(self, z: Tensor) -> Tensor:
        return ((z.flatten(1) @ self.basis.T + 1) / 2).reshape(-1, 1, 4, 4)

    def encode(self, x: Tensor) -> Tensor:
        return ((2 * x - 1).flatten(1) @ self.basis).reshape(-1, 1, 3, 3)


def test_latino():
    """Algorithm 1 of LATINO with delta = 0.4 and 4 steps, variance preserving, pictures in [-1, 1]."""
    prior, codec, sigma, delta = mixture(3), Codec(), 0.1, 0.4
    bars = [0.02, 0.2, 0.5, 0.8]
    y = (codec.basis @ prior.sample(1, 4).flatten())[None] @ MATRIX.T
    start = torch.randn(2, 1, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(6))
    draws, z = Streams(8, "sampling", 2), start
    for k, bar in enumerate(bars):
        z0 = prior.denoiser(z, Level(bar**0.5, (1 - bar) ** 0.5))
        x = z0.flatten(1) @ codec.basis.T
        gamma = delta * (1 - bar) / sigma**2
        x = torch.linalg.solve(gamma * MATRIX.T @ MATRIX + EYE, (gamma * y @ MATRIX + x).T).T
        z0 = (x @ codec.basis).reshape(start.shape)
        following = [*bars[1:], 1.0][k]
        noise = draws.normal(start) if k < 3 else 0.0
        z = following**0.5 * z0 + (1 - following) ** 0.5 * noise
    operator = Dense(MATRIX, (1, 4, 4))
    measurement = Measurement(operator, (y + MATRIX.sum(1)) / 2, GaussianNoise(sigma / 2))
    block = decoded(DiffPIR(measurement, 1 / delta, 1.0), codec)
    levels = [*(Level(1.0, ((1 - bar) / bar) ** 0.5) for bar in bars), Level(1.0, 0.0)]
    run = Run(prior.denoiser, levels, [block], Streams(8, "sampling", 2))
    ours = GuidedDDIM(1.0, "zeta")(run, start / bars[0] ** 0.5)
    torch.testing.assert_close(ours, z, rtol=1e-6, atol=1e-6)
