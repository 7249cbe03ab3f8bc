"""Likelihood guidance against dense linear algebra and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from guidance_rows import F64, LEVELS, NEXT, ROWS, Dense64, Row, matrices, measure, one_thread, random_prior  # noqa: F401
from torch import Tensor

from posterior.algebra.refusal import Refusal
from posterior.algebra.streams import Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run, combined
from posterior.diffusion.state import predict
from posterior.guidance.auto import automatic, steepness
from posterior.guidance.base import Guidance
from posterior.guidance.ddnm import DDNM
from posterior.guidance.diffpir import DiffPIR
from posterior.guidance.dps import DPS
from posterior.guidance.lgd import LGDMC
from posterior.guidance.mmps import MMPS
from posterior.guidance.pigdm import PiGDM, PiGDMPublished
from posterior.guidance.snips import SNIPS
from posterior.guidance.timing import Timing
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise, PoissonNoise
from posterior.operators.base import Operator
from posterior.operators.compose import compose
from posterior.operators.convolution import CircularConvolution
from posterior.operators.dense import Dense
from posterior.operators.downscale import downscale
from posterior.operators.identity import Identity, Scale
from posterior.operators.inpainting import Inpainting
from posterior.operators.jpeg import JPEG
from posterior.operators.kernels import gaussian
from posterior.operators.levels import Levels
from posterior.operators.phase_retrieval import CodedDiffraction, PhaseRetrieval
from posterior.operators.sensing import Subsampled
from posterior.operators.varying_blur import VaryingBlur
from posterior.priors.gaussian import Gaussian
from posterior.samplers.ddim import GuidedDDIM

ids = {"ids": lambda value: value.name if isinstance(value, Row) else str(value)}


def dense(prior: Gaussian, x: Tensor, measurement: Measurement, matrix: Tensor, level: str) -> Dense64:
    t, C, mu = LEVELS[level], prior.covariance(), prior.mean.flatten()
    total = torch.linalg.inv(t.alpha**2 * C + t.sigma**2 * torch.eye(len(mu), dtype=F64))
    m = mu + t.alpha * C @ total @ (x.flatten() - t.alpha * mu)
    V = C - t.alpha**2 * C @ total @ C
    return Dense64(x.flatten(), m, V, matrix, measurement.y.flatten(), measurement.noise.sigma, t, NEXT[level])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["mask", "blur", "random"])
@pytest.mark.parametrize("row", [row for row in ROWS if row.x0 or row.shift], **ids)
def test_agrees_with_dense_algebra(row: Row, kind: str, level: str):
    prior, matrix = random_prior(4), matrices(4)[kind]
    measurement = measure(prior, matrix, 0.0 if row.clean else 0.3)
    block = row.make(measurement)
    x = torch.randn(2, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(5)) * 3
    state = predict(prior.denoiser, x, LEVELS[level], block.jacobian, s=NEXT[level])
    estimate = combined([block], state)
    for i in range(2):
        d = dense(prior, x[i], measurement, matrix, level)
        expected = (d.m if row.x0 is None else row.x0(d)), (row.shift(d) if row.shift else None)
        tolerance = 1e-6 if kind == "blur" and row.name.startswith("DDS c") else 1e-8
        torch.testing.assert_close(estimate.x0[i].flatten(), expected[0], rtol=tolerance, atol=tolerance)
        if row.shift:
            torch.testing.assert_close(estimate.shift[i].flatten(), expected[1], rtol=1e-7, atol=1e-8)


# Steps


@pytest.mark.parametrize("row", ROWS, **ids)
def test_a_sample_does_not_depend_on_its_batch(row: Row):
    prior = random_prior(4)
    block = row.make(measure(prior, matrices(4)["random"], 0.0 if row.clean else 0.3))
    x = 5 * torch.randn(6, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(7))
    levels = [Level(1.0, sigma) for sigma in (5.0, 2.0, 0.5, 0.1, 0.0)]

    def run(*samples: int) -> Tensor:
        return GuidedDDIM(1.0)(Run(prior.denoiser, levels, [block], Streams(1, "sampling", samples)), x[list(samples)])

    together = run(*range(6))
    assert torch.isfinite(together).all()
    for i in (0, 1, 5):  # whatever its place in the batch
        torch.testing.assert_close(together[i : i + 1], run(i), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("row", ROWS, **ids)
def test_strength_zero_is_the_unguided_tensor(row: Row):
    prior = random_prior(4)
    measurement = measure(prior, matrices(4)["mask"], 0.0 if row.clean else 0.3)
    block = row.make(measurement)
    off = type(block)(**{**vars(block), "timing": Timing(strength=0.0)})
    state = predict(prior.denoiser, torch.ones(1, 1, 4, 4, dtype=F64), LEVELS["low"], s=NEXT["low"])
    estimate = combined([off], state)
    assert estimate.x0 is state.x0 and estimate.shift == 0.0
    x = 5 * torch.randn(2, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(7))
    levels = [Level(1.0, sigma) for sigma in (5.0, 1.0, 0.1, 0.0)]
    runs = [
        GuidedDDIM(1.0)(Run(prior.denoiser, levels, blocks, Streams(1, "sampling", 2)), x) for blocks in ([], [off])
    ]
    assert torch.equal(*runs)


def test_lgd_weighs_its_draws_by_likelihood():
    """Its direction is that of autograd through log (1/n) sum_i p(y given x0_hat + r_t z_i)."""
    prior, n = random_prior(4), 5
    measurement = measure(prior, matrices(4)["random"], 0.8)
    block = LGDMC(measurement, 0.3, n, 0.4, seed=9)
    x, t = torch.randn(1, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(0)), Level(0.8, 0.9)
    shift = combined([block], predict(prior.denoiser, x, t, True, draw=Streams(3, "sampling"))).shift
    draws = Streams(3, "sampling").of("LGD-MC 9")
    r_t = 0.4 * 0.9 / math.hypot(0.8 * 0.4, 0.9)
    leaf = x.clone().requires_grad_()
    points = [prior.denoiser(leaf, t) + r_t * draws.normal(x) for _ in range(n)]
    logs = torch.stack([measurement.noise.log_likelihood(measurement.residual(p)) for p in points])
    (gradient,) = torch.autograd.grad(logs.logsumexp(0).sum(), leaf)
    torch.testing.assert_close(shift / shift.norm(), gradient / gradient.norm())


class Cube(Operator):
    """A(x) = x^3, not linear, with an inverse."""

    label = "A cube"

    def forward(self, x: Tensor) -> Tensor:
        return x**3

    def pinv(self, y: Tensor) -> Tensor:
        return y.sign() * y.abs() ** (1 / 3)


def test_pigdm_uses_a_generalised_inverse():
    prior = random_prior(4)
    y = torch.rand(1, 1, 4, 4, dtype=F64)
    x, t = torch.randn(1, 1, 4, 4, dtype=F64), Level(1.0, 0.6)
    state = predict(prior.denoiser, x, t, True)
    x0 = PiGDM(Measurement(Cube(), y, GaussianNoise(0.0))).estimate(state, state.x0).x0
    r2 = t.sigma**2 / (1 + t.sigma**2)
    torch.testing.assert_close(x0, state.x0 + t.sigma**2 * state.vjp(y ** (1 / 3) - state.x0) / r2)


# Refusals


def test_refusals_say_what_to_change():
    nonlinear = Measurement(Cube(), torch.rand(1, 1, 4, 4), GaussianNoise(0.1))
    clean = Measurement(Identity(), torch.rand(1, 1, 4, 4), GaussianNoise(0.0))
    for row in ROWS:
        block = row.make(measure(random_prior(4), matrices(4)["mask"], 0.0 if row.clean else 0.3))
        if {"linear", "spectral"} & set(block.needs):
            with pytest.raises(Refusal, match="choose (DPS|DiffPIR) instead"):
                row.make(nonlinear)
        if "noisy" in block.needs:
            with pytest.raises(Refusal, match="noise level above 0"):
                row.make(clean)


def test_a_matrix_is_its_decomposition():
    matrix = matrices(4)["random"]
    operator = Dense(matrix, (1, 4, 4))
    x, y = torch.randn(2, 1, 4, 4, dtype=F64), torch.randn(2, 8, dtype=F64)
    torch.testing.assert_close(operator.forward(x), x.flatten(1) @ matrix.T)
    torch.testing.assert_close(operator.adjoint(y).flatten(1), y @ matrix)
    torch.testing.assert_close(operator.pinv(y).flatten(1), y @ torch.linalg.pinv(matrix).T)


@pytest.mark.parametrize("method", [PiGDM, partial(MMPS, iterations=30), DiffPIR, DDNM, SNIPS])
def test_a_noise_map_weighs_every_entry(method: Callable[[Measurement], Guidance]):
    """Noise of many levels is noise of one level on a weighted operator, here as a dense matrix."""
    prior = random_prior(4)
    keep = torch.ones(1, 1, 4, 4, dtype=F64)
    keep[..., :2] = 0
    seen = keep.flatten() > 0
    sigma = torch.linspace(0.1, 0.5, 16, dtype=F64).reshape(1, 1, 4, 4)
    y, weights = keep * prior.sample(1, 2), 1 / sigma.flatten()[seen]
    matrix = torch.diag(weights) @ torch.eye(16, dtype=F64)[seen]
    blocks = [
        method(Measurement(Inpainting(1 - keep), y, GaussianNoise(sigma))),
        method(Measurement(Dense(matrix, (1, 4, 4)), y.flatten()[seen][None] * weights, GaussianNoise(1.0))),
    ]
    x = torch.randn(2, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(5))
    state = predict(prior.denoiser, x, LEVELS["low"], True, s=NEXT["low"])
    estimates = [combined([block], state).x0 for block in blocks]
    torch.testing.assert_close(*estimates, rtol=1e-6, atol=1e-6)


def test_poisson_noise_weighs_the_norm_of_dps():
    """DPS, eq. 18: the norm has the weights 1 / y."""
    y = torch.linspace(0.2, 0.9, 16, dtype=F64).reshape(1, 1, 4, 4)
    measurement = Measurement(Identity(), y, PoissonNoise(0.01))
    prior, x = random_prior(4), torch.randn(1, 1, 4, 4, dtype=F64)
    shift = combined([DPS(measurement)], predict(prior.denoiser, x, LEVELS["low"], True)).shift
    leaf = x.clone().requires_grad_()
    norm = ((y - prior.denoiser(leaf, LEVELS["low"])) ** 2 / y).sum().sqrt()
    (gradient,) = torch.autograd.grad(-norm, leaf)
    torch.testing.assert_close(shift / shift.norm(), gradient / gradient.norm())


def test_the_automatic_choice():
    """By damage, noise and space; the words name the method."""
    y = torch.rand(1, 3, 16, 16)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :4] = 1
    cases = [
        (Inpainting(mask), 0.0, False, DDNM),
        (Inpainting(mask), 0.1, False, DiffPIR),
        (JPEG(30), 0.0, False, PiGDMPublished),
        (compose(JPEG(30), CircularConvolution(gaussian(1.0))), 0.0, False, DiffPIR),
        (PhaseRetrieval(), 0.0, False, DPS),
        (Inpainting(mask), 0.0, True, DPS),
    ]
    for operator, sigma, latent, method in cases:
        measurement = Measurement.simulate(operator, y, GaussianNoise(sigma), 0)
        (block,), words, _ = automatic(measurement, 50, latent)
        assert type(block) is method and words.startswith(f"{block.label.split(' (')[0]}, because")
    assert block.zeta == 20  # a latent model takes the paper's length: 1000 steps of 1


@pytest.mark.parametrize("operator, norm", [(CodedDiffraction(4, 0), 2.0), (Scale(3.0), 3.0), (PhaseRetrieval(), 1.0)])
def test_the_automatic_step_allows_for_steep_damage(operator: Operator, norm: float):
    measurement = Measurement.simulate(operator, torch.rand(1, 3, 16, 16), GaussianNoise(0.1), 0)
    assert steepness(measurement) == pytest.approx(norm, rel=0.1)


@pytest.mark.parametrize(
    "operator, restoring",
    [
        (Inpainting(torch.eye(16)[None, None]), 1.0),
        (Identity(), 1.0),
        (compose(Inpainting(torch.eye(16)[None, None]), Levels(0.4, 0.3)), 1.0),
        (Subsampled("dct", 0.3), 1.0),
        (CircularConvolution(gaussian(1.0)), 0.25),
        (downscale(4), 0.25),
        (downscale(4, "box"), 0.25),
        (VaryingBlur(gaussian(1.0).expand(2, -1, -1, -1), 2), 0.25),
    ],
)  # fmt: skip
def test_the_automatic_trust(operator: Operator, restoring: float):
    """Blurred and reduced pictures are restored with a quarter of the trust; samples take all of it."""
    measurement = Measurement.simulate(operator, torch.rand(1, 3, 16, 16), GaussianNoise(0.1), 0)
    for restore, trust in ((True, restoring), (False, 1.0)):
        (block,), words, _ = automatic(measurement, 30, restore=restore)
        assert (block.trust, block.deviation) == (trust, 0.5) and words.endswith(f"trust {trust:g}")
