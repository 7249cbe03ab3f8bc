"""The second-order term of STSL against the exact spread of a mixture."""

from __future__ import annotations

import pytest
import torch
from guidance_rows import F64, one_thread  # noqa: F401
from torch import Tensor

from posterior.diffusion.level import Level
from posterior.diffusion.run import Run, combined
from posterior.diffusion.state import predict
from posterior.guidance import stsl
from posterior.guidance.dps import DPS
from posterior.guidance.stsl import STSL
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.dense import Dense
from posterior.priors.mixture import GaussianMixture
from posterior.samplers.ddim import GuidedDDIM

SHAPE = (4, 1, 1)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def prior() -> GaussianMixture:
    centres = torch.randn(3, *SHAPE, dtype=F64, generator=generator())
    return GaussianMixture.from_centres(centres, 0.5, torch.tensor([0.2, 0.5, 0.3], dtype=F64))


def measurement() -> Measurement:
    matrix = torch.randn(2, 4, dtype=F64, generator=generator())
    return Measurement(Dense(matrix, SHAPE), torch.ones(1, 2, dtype=F64), GaussianNoise(0.1))


@pytest.mark.parametrize("t", [Level(1.0, 0.7), Level(0.8, 0.6), Level(0.5, 0.5, 2.0)])
@pytest.mark.parametrize("delta, tolerance", [(stsl.DELTA, 0.1), (0.03, 0.03)])
def test_the_second_term_follows_the_exact_gradient_of_the_spread(t: Level, delta, tolerance, monkeypatch):
    """E over probes, from 40,000 of them, against Tr Cov = (sigma^2 / alpha) Tr J differentiated through a dense J."""
    monkeypatch.setattr(stsl, "DELTA", delta)
    mixture, x_t = prior(), 0.4 * torch.randn(1, *SHAPE, dtype=F64, generator=generator())

    def spread(x: Tensor) -> Tensor:
        jacobian = torch.autograd.functional.jacobian(
            lambda u: mixture.denoiser(u.reshape(1, *SHAPE), t).flatten(), x.flatten(), create_graph=True
        )
        return t.sigma**2 / t.alpha * jacobian.trace()

    leaf = x_t.clone().requires_grad_()
    (exact,) = torch.autograd.grad(spread(leaf), leaf)
    many = x_t.expand(40000, -1, -1, -1)
    shifts = [
        combined([STSL(measurement(), 0.3, gamma)], predict(mixture.denoiser, many, t, True)).shift.mean(0)
        for gamma in (0.5, 0.0)
    ]
    assert (shifts[0] - shifts[1] + 0.5 * t.vp_norm * exact[0]).norm() < tolerance * 0.5 * t.vp_norm * exact.norm()


def test_without_the_second_term_it_is_dps():
    state = predict(prior().denoiser, torch.ones(2, *SHAPE, dtype=F64), Level(0.8, 0.6), True)
    blocks = STSL(measurement(), 0.3, 0.0), DPS(measurement(), 0.3)
    torch.testing.assert_close(*(combined([block], state).shift for block in blocks))


def test_it_asks_the_model_twice_a_step():
    calls = []

    def denoiser(x: Tensor, t: Level) -> Tensor:
        calls.append(t)
        return prior().denoiser(x, t)

    levels = [Level(1.0, sigma) for sigma in (5.0, 1.0, 0.2, 0.0)]
    with torch.no_grad():
        x = GuidedDDIM()(Run(denoiser, levels, [STSL(measurement())]), torch.ones(2, *SHAPE, dtype=F64))
    assert len(calls) == 6 and x.isfinite().all()
