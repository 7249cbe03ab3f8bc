"""LATINO, FlowDPS, TriPS-T, FLAIR: published trajectories, a known posterior, model calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from patch_codec import F64, SmallAutoencoder, latent_prior
from test_latent import CODEC, LATENT, SIDE, dense, one_thread, pictured  # noqa: F401
from torch import Tensor

from posterior.algebra.refusal import Refusal
from posterior.algebra.streams import Streams
from posterior.benchmarks.few_steps import distance, flow_levels
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.diffusion.schedule import Schedule
from posterior.guidance.auto import automatic
from posterior.guidance.base import Guidance
from posterior.guidance.ddnm import DDNM
from posterior.guidance.diffpir import DiffPIR
from posterior.guidance.dps import DPS
from posterior.guidance.latent import decoded
from posterior.measurement.decoded import Decoded, of_pictures
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.convolution import convolution
from posterior.operators.downscale import downscale
from posterior.operators.inpainting import Inpainting
from posterior.operators.jpeg import JPEG
from posterior.operators.kernels import gaussian
from posterior.priors.gaussian import dense_matrix
from posterior.samplers.auto import for_latents
from posterior.samplers.back_projection import back_projection
from posterior.samplers.ddim import GuidedDDIM
from posterior.samplers.flair import FLAIR, relaxation
from posterior.samplers.flow_dps import TRIPS, FlowDPS
from posterior.samplers.latino import LATINO, trace

NONLINEAR, SHAPE = SmallAutoencoder(), (2, 4, 4)
METHODS = {"LATINO": LATINO(), "FlowDPS": FlowDPS(), "TriPS-T": TRIPS, "FLAIR": FLAIR()}


def network(x: Tensor, t: Level) -> Tensor:
    """A denoiser whose Jacobian is not constant."""
    return t.alpha / (t.alpha**2 + t.sigma**2) * x + 0.3 * (x.roll(1, -1) / (1 + t.sigma)).tanh()


def through(measurement: Measurement, codec=CODEC) -> Guidance:
    """A carrier of the measurement of pictures, bound to latents."""
    return Guidance(replace(measurement, operator=Decoded(measurement.operator, codec)))


def start(count: int = 2, shape: Sequence[int] = SHAPE, seed: int = 6) -> Tensor:
    return torch.randn(count, *shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def published_problem() -> tuple[Measurement, Tensor]:
    """Means of 4 x 4 pixels of a decoded latent, noise 0.05, and the matrix."""
    measurement = Measurement.simulate(downscale(4, "box"), NONLINEAR.decode(start(1, seed=3)), GaussianNoise(0.05), 1)
    return measurement, dense_matrix(measurement.operator, (3, 8, 8), torch.zeros((), dtype=F64))


def test_latino_s_published_trajectory():
    """Pictures in [-1, 1], variance-preserving latents, delta = 0.4: a plain transcription with the same noise."""
    measurement, A = published_problem()
    bars = torch.tensor([0.005, 0.1, 0.4, 0.8], dtype=F64)
    y, sigma = 2 * measurement.y.flatten() - 1, 2 * 0.05
    draws = Streams(8, "sampling", 2)
    z, theirs = start(), []
    for bar, then in zip(bars, [*bars[1:], torch.ones((), dtype=F64)], strict=True):
        a, s = bar.sqrt().item(), (1 - bar).sqrt().item()
        z0 = network(z / a, Level(1.0, s / a))
        x = (2 * NONLINEAR.decode(z0) - 1).flatten(1)
        gamma = 0.4 * s**2 / sigma**2
        system = gamma * A.T @ A + torch.eye(A.shape[1], dtype=F64)
        x = torch.linalg.solve(system, gamma * y @ A + x, left=False).reshape(-1, 3, 8, 8)
        z0 = NONLINEAR.encode((x + 1) / 2)
        theirs.append(z0)
        z = then.sqrt() * z0 + ((1 - then).sqrt() * draws.normal(z0) if then < 1 else 0.0)
    levels = [*(Level(1.0, ((1 - bar) / bar).sqrt().item()) for bar in bars), Level(1.0, 0.0)]
    ours: list[Tensor] = []
    blocks, draw = [through(measurement, NONLINEAR)], Streams(8, "sampling", 2)
    run = Run(network, levels, blocks, draw, lambda i, x, x0, t: ours.append(x0))
    end = LATINO("given", 0.4)(run, start() / bars[0].sqrt())
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(end, z, rtol=1e-6, atol=1e-7)


def test_flowdps_s_published_trajectory():
    """Velocity, pictures in [-1, 1], residual lifted by A^+, three steps of 0.02: a plain transcription."""
    measurement, A = published_problem()
    times = [1.0, 0.9, 0.6, 0.3, 0.0]
    y, inverse = 2 * measurement.y.flatten() - 1, torch.linalg.pinv(A)
    draws = Streams(8, "sampling", 2)
    z, theirs = start(), []
    for s, after in zip(times[:-1], times[1:], strict=True):
        v = (z - network(z, Level(1 - s, s))) / s
        z0, z1 = z - s * v, z + (1 - s) * v
        fitted = z0.clone()
        for _ in range(3):
            leaf = fitted.detach().requires_grad_()
            with torch.enable_grad():
                residual = (y - (2 * NONLINEAR.decode(leaf) - 1).flatten(1) @ A.T) @ inverse.T
                (gradient,) = torch.autograd.grad(residual.norm(dim=1).sum(), leaf)
            fitted = fitted - 0.02 * gradient
        z0y = (1 - s) * z0 + s * fitted
        theirs.append(z0y)
        noise = math.sqrt(after) * z1 + (math.sqrt(1 - after) * draws.normal(z) if after else 0.0)
        z = (1 - after) * z0y + after * noise
    ours: list[Tensor] = []
    run = Run(
        network, [Level(1 - t, t) for t in times], [through(measurement, NONLINEAR)], Streams(8, "sampling", 2),
        lambda i, x, x0, t: ours.append(x0), schedule=Schedule("flow"),
    )  # fmt: skip
    end = FlowDPS(rate=0.02 * 2 * 4)(run, start())
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(end, z, rtol=1e-6, atol=1e-7)


# A known posterior


@pytest.mark.parametrize("kind, sigma, steps", [("inpainting", 0.3, 8), ("upscaling", 0.02, 4)])
def test_distances_to_the_latent_posterior(kind: str, sigma: float, steps: int):
    """The search along a line beats projections on decoded pictures; v of the residual beats a fixed one, and DDNM."""
    measurement, exact = pictured(kind, sigma), latent_prior().posterior(dense(kind, sigma))
    calls: list[int] = []

    def denoiser(x: Tensor, t: Level) -> Tensor:
        calls.append(1)
        return latent_prior().denoiser(x, t)

    def error(sampler, block: Guidance) -> float:
        calls.clear()
        run = Run(denoiser, flow_levels(steps), [block], Streams(1, "sampling"), schedule=Schedule("flow"))
        samples = sampler(run, start(40, LATENT))
        assert len(calls) == steps
        return distance(samples, exact)

    found = {name: error(sampler, through(measurement)) for name, sampler in METHODS.items()}
    fixed = error(LATINO(delta=1.0), through(measurement))
    ddnm = error(GuidedDDIM(1.0), decoded(DDNM(measurement), CODEC))
    print(found, fixed, ddnm)
    assert found["LATINO"] < (0.95 if sigma == 0.3 else 1.02) * fixed and found["LATINO"] < ddnm
    assert max(found["FLAIR"], found["TriPS-T"]) < 1.06 * found["LATINO"]
    assert max(found["FLAIR"], found["TriPS-T"]) < found["FlowDPS"]


def test_latino_takes_no_gradient_and_one_encoding_a_step(monkeypatch):
    codec, calls = SmallAutoencoder(), {"decode": 0, "encode": 0}

    def counted(name: str):
        inner = getattr(codec, name)

        def call(x: Tensor) -> Tensor:
            assert not x.requires_grad
            calls[name] += 1
            return inner(x)

        monkeypatch.setattr(codec, name, call)

    counted("decode"), counted("encode")
    measurement, _ = published_problem()
    run = Run(network, flow_levels(4), [through(measurement, codec)], Streams(1, "sampling", 2))
    assert LATINO()(run, start()).isfinite().all()
    assert calls == {"decode": 4, "encode": 5}


def test_latino_wants_linear_damage():
    measurement = Measurement.simulate(JPEG(30), torch.rand(1, 3, 16, 16), GaussianNoise(0.1), 0)
    with pytest.raises(Refusal, match="choose FLAIR"):
        LATINO()(Run(network, flow_levels(2), [Guidance(measurement)]), torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("kind", ["blur", "upscaling", "mask"])
def test_the_error_variance_is_that_of_the_error(kind: str, size: int):
    """White errors of a prediction, whatever the size of y: v from (norm(r)^2 - m sigma_y^2) / tr(A A^T)."""
    hole = torch.zeros(1, 1, size, size, dtype=F64)
    hole[..., : size // 2, :] = 1
    kernel = gaussian(1.0).double()
    operator, exact = {
        "blur": (convolution(kernel, "circular"), 3 * size**2 * kernel.square().sum().item()),
        "upscaling": (downscale(4, "box"), 3 * (size / 4) ** 2 / 16),
        "mask": (Inpainting(hole), 3 * size**2 / 2),
    }[kind]
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(1, 3, size, size, dtype=F64, generator=generator)
    measurement = Measurement.simulate(operator, x, GaussianNoise(0.02), 0)
    off = x + 0.3 * torch.randn(x.shape, dtype=F64, generator=generator)
    t = trace(measurement, Streams(0, "LATINO"))
    assert t.item() == pytest.approx(exact, rel=1e-9 if kind != "blur" else 0.2)
    fitted = LATINO()._fitted(measurement, off, t, 1.0, Level(1.0, 1.0))
    # the proximal step solves A^T (A x - y) / sigma^2 + (x - off) / v = 0
    pull = operator.adjoint(measurement.residual(fitted)) / 0.02**2
    variance = ((fitted - off) * pull).sum() / pull.square().sum()
    assert variance.item() == pytest.approx(0.3**2, rel=5 * (2 / measurement.y.numel()) ** 0.5)


# What they start from


def test_the_back_projection_has_no_hole_and_is_what_was_measured():
    hole = torch.zeros(1, 1, SIDE, SIDE, dtype=F64)
    hole[..., 5:13, 3:12] = 1
    picture = torch.linspace(0.2, 0.8, SIDE, dtype=F64).expand(1, 3, SIDE, SIDE)
    measurement = Measurement.simulate(Inpainting(hole), picture, GaussianNoise(0.0), 0)
    found = back_projection(measurement, torch.zeros(2, 3, SIDE, SIDE, dtype=F64))
    torch.testing.assert_close(found, picture.expand(2, -1, -1, -1), rtol=0, atol=0.01)  # a ramp is harmonic
    encoded = back_projection(through(measurement).measurement, start(2, LATENT))
    torch.testing.assert_close(encoded, CODEC.encode(found), rtol=1e-9, atol=1e-9)
    phases = Measurement.simulate(JPEG(30), torch.rand(1, 3, 16, 16), GaussianNoise(0.0), 0)
    assert back_projection(phases, torch.zeros(1, 3, 16, 16)).std() > 0.1
    assert of_pictures(measurement)[0] is measurement


def test_a_start_below_pure_noise():
    """LATINO from t_0 = 0.6 on: the first state is the back-projection at that level."""
    measurement, first = pictured("upscaling", 0.02), Level(0.4, 0.6)
    states: list[Tensor] = []
    run = Run(
        latent_prior().denoiser, [first, Level(0.7, 0.3), Level(1.0, 0.0)], [through(measurement)],
        Streams(1, "sampling"), lambda i, x, x0, t: states.append(x), schedule=Schedule("flow"),
    )  # fmt: skip
    LATINO()(run, torch.full((100, *LATENT), 1e3, dtype=F64))
    mean = first.alpha * back_projection(run.measurement, start(1, LATENT))[0]
    assert ((states[0].mean(0) - mean).abs() < 5 * 0.6 / 10).all()
    assert states[0].var(0).mean().item() == pytest.approx(0.36, rel=0.05)


def test_flair_s_relaxation():
    """k of 50 steps at the entries and between them."""
    assert relaxation(0.5) == pytest.approx(0.84) and relaxation(0.55) == pytest.approx(0.835)
    assert relaxation(1.0) == pytest.approx(0.11) and relaxation(0.0) == 0.5


# The choice


@pytest.mark.parametrize(
    "steps, cfg, linear, gradient, expected",
    [
        (4, 1.0, True, True, LATINO()), (12, 1.0, True, False, LATINO()), (8, 3.0, True, True, FLAIR()),
        (8, 1.0, False, True, FLAIR()), (28, 3.0, True, False, TRIPS), (28, 3.0, False, False, TRIPS),
        (28, 1.0, True, True, None), (28, 3.0, False, True, None),
    ],
)  # fmt: skip
def test_the_automatic_choice_of_latent_models(steps: int, cfg: float, linear: bool, gradient: bool, expected):
    """By steps, CFG, damage and memory; guidance alone takes no gradient in few steps either."""
    operator = downscale(4, "box") if linear else JPEG(30)
    measurement = Measurement.simulate(operator, torch.rand(1, 3, 16, 16), GaussianNoise(0.1), 0)
    chosen = for_latents(measurement, steps, cfg, gradient)
    assert chosen is None if expected is None else chosen[0] == expected and ", because" in chosen[1]
    (block,) = automatic(measurement, steps, latent=True).blocks
    assert isinstance(block, DiffPIR if linear and steps <= 12 else DPS)
