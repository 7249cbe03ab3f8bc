"""Guidance of latent models without a host: a linear autoencoder whose posterior is known, and a nonlinear one."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from patch_codec import F64, PatchPCA, SmallAutoencoder, latent_prior
from torch import Tensor

from posterior.algebra.refusal import Refusal
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run, combined
from posterior.diffusion.state import predict
from posterior.guidance.base import Guidance
from posterior.guidance.ddnm import DDNM
from posterior.guidance.dds import DDS
from posterior.guidance.diffpir import DiffPIR
from posterior.guidance.dps import DPS, DPSGaussian
from posterior.guidance.dsg import DSG
from posterior.guidance.latent import OnPictures, Relinearised, decoded
from posterior.guidance.lgd import LGDMC
from posterior.guidance.mcg import MCG
from posterior.guidance.mmps import MMPS
from posterior.guidance.mpgd import MPGD
from posterior.guidance.pigdm import PiGDM, PiGDMPublished
from posterior.guidance.psld import PSLD
from posterior.guidance.score_ald import ScoreALD
from posterior.guidance.tmpd import TMPD
from posterior.measurement.decoded import Decoded, Linearised
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.base import LinearOperator
from posterior.operators.downscale import downscale
from posterior.operators.inpainting import Inpainting
from posterior.operators.jpeg import JPEG
from posterior.priors.gaussian import dense_matrix
from posterior.samplers.ddim import GuidedDDIM

SIDE, LATENT = 16, (16, 2, 2)
CODEC = PatchPCA(pictures=True)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The matrices are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def operator(kind: str):
    if kind == "upscaling":
        return downscale(4, "box")
    hole = torch.zeros(1, 1, SIDE, SIDE, dtype=F64)
    hole[..., 5:13, 3:12] = 1
    return Inpainting(hole)


@cache
def pictured(kind: str, sigma: float) -> Measurement:
    """The picture of a draw of the prior, measured."""
    return Measurement.simulate(operator(kind), CODEC.decode(latent_prior().sample(1, 4)), GaussianNoise(sigma), 1)


@cache
def dense(kind: str, sigma: float) -> Measurement:
    """The same measurement of latents, with A D as a matrix: y - A D(0) = (A D) z + noise."""
    measurement = pictured(kind, sigma)
    pictures = dense_matrix(measurement.operator, (3, SIDE, SIDE), torch.zeros((), dtype=F64))
    units = torch.eye(math.prod(LATENT), dtype=F64).reshape(-1, *LATENT)
    offset = CODEC.decode(torch.zeros(1, *LATENT, dtype=F64))
    columns = (CODEC.decode(units) - offset).flatten(1).T
    y = (measurement.y.flatten() - pictures @ offset.flatten())[None]
    return Measurement(Matrix(pictures @ columns), y, measurement.noise)


class Matrix(LinearOperator):
    """A dense matrix on latents; may have more rows than columns."""

    def __init__(self, matrix: Tensor):
        self.matrix = matrix

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.T

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix).reshape(-1, *LATENT)

    def solve(self, r: Tensor, c: float | Tensor = 0.0) -> Tensor:
        return torch.linalg.solve(self.matrix @ self.matrix.T + c * torch.eye(len(self.matrix), dtype=F64), r.T).T


def through(block: Guidance) -> Guidance:
    """The block on latents, with systems solved to the end."""
    block = decoded(block, CODEC)
    return replace(block, iterations=40) if isinstance(block, Relinearised) else block


def state(t: Level, jacobian: bool = True, seed: int = 5, batch: int = 2, **fields):
    x = torch.randn(batch, *LATENT, dtype=F64, generator=torch.Generator().manual_seed(seed)) * (1 + t.sigma)
    return predict(latent_prior().denoiser, x, t, jacobian, **fields)


# The linear autoencoder: what goes through it is dense algebra on latents


@pytest.mark.parametrize("level", [Level(1.0, 3.0), Level(0.6, 0.4)])
@pytest.mark.parametrize("kind", ["inpainting", "upscaling"])
@pytest.mark.parametrize(
    "method",
    [
        partial(DPS, zeta=0.3), partial(DPS, zeta=0.3, jacobian=False), DPSGaussian, MPGD, DSG,
        partial(MMPS, iterations=300), TMPD, PiGDM, PiGDMPublished, partial(LGDMC, deviation=1e-9),
    ],
)  # fmt: skip
def test_guidance_through_a_decoder_is_guidance_by_the_composed_matrix(method, kind, level):
    at = state(level)
    got = combined([through(method(pictured(kind, 0.1)))], at)
    expected = combined([method(dense(kind, 0.1))], at)
    for field in ("x0", "shift", "ascent"):
        torch.testing.assert_close(
            torch.as_tensor(getattr(got, field)), torch.as_tensor(getattr(expected, field)), rtol=1e-6, atol=1e-7
        )


@pytest.mark.parametrize("sigma", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["inpainting", "upscaling"])
@pytest.mark.parametrize("name", ["DDNM", "DiffPIR", "DDS", "Pi-GDM"])
def test_projections_on_decoded_pictures(name, kind, sigma):
    """z + E(P(D z)) - E(D z) with P in dense algebra; levels of latents are those of pictures in [-1, 1]."""
    method = {
        "DDNM": DDNM, "DiffPIR": DiffPIR, "DDS": partial(DDS, iterations=100, gamma=4.0),
        "Pi-GDM": partial(PiGDM, jacobian=False),
    }[name]  # fmt: skip
    measurement, t, s = pictured(kind, sigma), Level(0.6, 0.4), Level(0.75, 0.25)
    at = state(t, False, s=s)
    block = decoded(method(measurement), CODEC)
    assert isinstance(block, OnPictures) and not block.jacobian
    got = combined([block], at).x0
    A = dense_matrix(measurement.operator, (3, SIDE, SIDE), torch.zeros((), dtype=F64))
    x = CODEC.decode(at.x0).flatten(1).T
    r, eye = measurement.y.flatten()[:, None] - A @ x, torch.eye(len(x), dtype=F64)
    u, values, vh = torch.linalg.svd(A, full_matrices=False)
    inverse = torch.where(values > 1e-9, 1 / values, 0.0)[:, None]
    ratio = 0.4 / 2 / 0.6  # sigma_bar of pictures in [0, 1]
    if name == "DDNM":  # lambda / s of the level that the step goes to
        share = inverse if sigma == 0 else inverse.clamp(max=0.25 / 2 / 0.75 / sigma)
        p = x + vh.T @ (share * (u.T @ r))
    elif name == "Pi-GDM":
        spread = 0.25 * 0.2**2 / (0.6**2 * 0.25 + 0.2**2)
        gain = values[:, None] / (values[:, None] ** 2 + sigma**2 / spread) if sigma else inverse
        p = x + vh.T @ (gain * (u.T @ r))
    elif sigma == 0:
        p = x + vh.T @ (inverse * (u.T @ r))
    else:
        rho = (sigma / ratio) ** 2 if name == "DiffPIR" else 1 / 4
        p = torch.linalg.solve(A.T @ A + rho * eye, A.T @ measurement.y.flatten()[:, None] + rho * x)
    rows, scale = CODEC.rows, CODEC.scale
    expected = (
        at.x0
        + 2
        * torch.einsum(  # E is linear but for its offset, which cancels
            "bnhw,kn->bkhw", _patches((p - x).T.reshape(-1, 3, SIDE, SIDE)), rows
        )
        / scale
    )
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def _patches(x: Tensor) -> Tensor:
    return torch.nn.functional.unfold(x, 8, stride=8).reshape(len(x), 192, 2, 2)


def moments(block: Guidance, steps: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a deterministic sampler, which for a linear block is an affine map of its start."""
    prior, n = latent_prior(), math.prod(LATENT)
    ramp = torch.linspace(60 ** (1 / 7), 2e-2 ** (1 / 7), steps, dtype=F64) ** 7
    levels = [Level(1.0, sigma) for sigma in ramp.tolist()] + [Level(1.0, 0.0)]
    starts = torch.cat([torch.eye(n, dtype=F64), torch.zeros(1, n, dtype=F64)]).reshape(-1, *LATENT)
    ends = GuidedDDIM()(Run(prior.denoiser, levels, [block]), starts).flatten(1)
    matrix = (ends[:-1] - ends[-1]).T
    start = prior.covariance() + levels[0].sigma ** 2 * torch.eye(n, dtype=F64)
    return matrix @ prior.mean.flatten() + ends[-1], matrix @ start @ matrix.T


def test_latent_methods_against_the_latent_posterior(capsys):
    """MMPS is exact, up to its steps; Latent-DPS is not, and by how much is printed."""
    prior = latent_prior()
    exact = prior.posterior(dense("inpainting", 0.3))
    centre = exact.mean.flatten()

    def errors(method, steps: int) -> tuple[float, float]:
        mean, covariance = moments(through(method(pictured("inpainting", 0.3))), steps)
        first = (mean - centre).norm() / (centre - prior.mean.flatten()).norm()
        return first.item(), ((covariance - exact.covariance()).norm() / exact.covariance().norm()).item()

    mmps = partial(MMPS, iterations=20)
    table = {"MMPS, 12 steps": errors(mmps, 12), "MMPS, 48 steps": errors(mmps, 48)}
    table["Latent-DPS (Gaussian)"] = errors(DPSGaussian, 64)  # unstable with fewer
    with capsys.disabled():
        print("\nlatent method            mean   covariance   (relative errors)")
        for name, (first, second) in table.items():
            print(f"{name:22} {first:7.3f}   {second:7.3f}")
    few, many = (max(table[f"MMPS, {steps} steps"]) for steps in (12, 48))
    assert many < 0.1 and 2.5 < few / many < 6  # first order: a quarter for four times the steps
    assert min(table["Latent-DPS (Gaussian)"]) > 0.3


# A nonlinear autoencoder, float64

NONLINEAR, SHAPE = SmallAutoencoder(), (2, 4, 4)


@pytest.mark.parametrize("kind", ["inpainting", "upscaling"])
def test_gradients_through_a_nonlinear_decoder(kind):
    """J^T v and J v against central differences."""
    hole = torch.zeros(1, 1, 8, 8, dtype=F64)
    hole[..., 2:5, 1:6] = 1
    composed = Decoded(downscale(4, "box") if kind == "upscaling" else Inpainting(hole), NONLINEAR)
    generator = torch.Generator().manual_seed(1)
    z, d = (torch.randn(2, *SHAPE, dtype=F64, generator=generator) for _ in range(2))
    y = composed.forward(z)
    v = torch.randn(y.shape, dtype=F64, generator=generator)
    h = 1e-5
    slope = (composed.forward(z + h * d) - composed.forward(z - h * d)) / (2 * h)
    linear = Linearised(composed, z)
    torch.testing.assert_close(linear.forward(d), slope, rtol=1e-7, atol=1e-8)
    expected = (v * slope).flatten(1).sum(1)
    for gradient in (composed.vjp(z, v), composed.linearise(z)[1](v), linear.adjoint(v)):
        torch.testing.assert_close((gradient * d).flatten(1).sum(1), expected, rtol=1e-7, atol=1e-8)


def test_the_decoder_runs_once_for_value_and_gradient(monkeypatch):
    calls = []
    inner = NONLINEAR.decode
    monkeypatch.setattr(NONLINEAR, "decode", lambda z: calls.append(1) or inner(z))
    hole = torch.zeros(1, 1, 8, 8, dtype=F64)
    hole[..., 2:5, 1:6] = 1
    measurement = Measurement(Inpainting(hole), torch.rand(1, 3, 8, 8, dtype=F64) * (1 - hole), GaussianNoise(0.1))
    block = decoded(DPS(measurement, jacobian=False), NONLINEAR)
    combined([block], predict(lambda x, t: 0.9 * x, torch.randn(1, *SHAPE, dtype=F64), Level(1.0, 0.5)))
    assert len(calls) == 1


def test_a_relinearised_method_improves_the_fit():
    """One step of Gauss and Newton through a nonlinear decoder."""
    truth = torch.randn(1, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(2))
    hole = torch.zeros(1, 1, 8, 8, dtype=F64)
    hole[..., 2:5, 1:6] = 1
    measurement = Measurement.simulate(Inpainting(hole), NONLINEAR.decode(truth), GaussianNoise(0.01), 0)
    block = decoded(MMPS(measurement, 30), NONLINEAR)
    near = truth + 0.3 * torch.randn(1, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(3))
    at = predict(lambda x, t: x / (1 + t.sigma**2), near * 1.25, Level(1.0, 0.5), True)
    got = combined([block], at).x0
    before, after = (measurement.residual_rms(NONLINEAR.decode(z)).item() for z in (at.x0, got))
    assert after < 0.5 * before


def test_pigdm_through_jpeg_and_a_decoder_uses_the_encoder_as_inverse():
    picture = CODEC.decode(latent_prior().sample(1, 4))
    measurement = Measurement.observe(JPEG(30), picture.clamp(0, 1), GaussianNoise(0.0))
    at = state(Level(1.0, 0.6), batch=1)
    x0 = combined([decoded(PiGDM(measurement), CODEC)], at).x0
    seen = Decoded(measurement.operator, CODEC)
    lifted = CODEC.encode(measurement.y) - CODEC.encode(measurement.operator.forward(CODEC.decode(at.x0)))
    torch.testing.assert_close(seen.pinv(measurement.y), CODEC.encode(measurement.operator.pinv(measurement.y)))
    torch.testing.assert_close(x0, at.x0 + at.covariance(lifted) / at.white_variance(1.0), rtol=1e-6, atol=1e-7)


def test_what_cannot_work_through_a_decoder_is_refused():
    for method in (ScoreALD, MCG):
        with pytest.raises(Refusal, match="seen through a VAE is not; choose DPS instead"):
            decoded(method(pictured("inpainting", 0.0)), CODEC)
    with pytest.raises(Refusal, match="PSLD needs a linear operator"):
        PSLD(Measurement(JPEG(30), torch.rand(1, 3, 16, 16), GaussianNoise(0.0)))
