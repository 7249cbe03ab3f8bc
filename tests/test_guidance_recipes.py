"""Published algorithms, transcribed from their papers, against our blocks in our sampler: the same trajectory.

The papers work with variance-preserving states of pictures in [-1, 1] and betas; we with any alpha and sigma and
pictures in [0, 1]. Both get the same network and the same noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from guidance_rows import F64, matrices, one_thread  # noqa: F401
from published_guidance import (
    ALPHA_BAR,
    PRIOR,
    SHAPE,
    STEPS,
    Problem,
    ddnm,
    ddnm_plus,
    ddrm,
    diffpir,
    dps,
    dsg,
    mcg,
    mpgd,
    pigdm,
    predicted,
    score_sde,
)
from torch import Tensor

from posterior.algebra.norms import sample_norm
from posterior.algebra.streams import Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.diffusion.state import predict
from posterior.guidance.base import Guidance
from posterior.guidance.ddnm import DDNM
from posterior.guidance.ddrm import DDRM
from posterior.guidance.diffpir import DiffPIR
from posterior.guidance.dps import DPS
from posterior.guidance.dsg import DSG, turned
from posterior.guidance.mcg import MCG
from posterior.guidance.mpgd import MPGD
from posterior.guidance.pigdm import PiGDMPublished
from posterior.guidance.projection import NoisedProjection
from posterior.guidance.snips import SNIPS
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.dense import Dense
from posterior.samplers.ddim import GuidedDDIM, fresh_noise


@dataclass(frozen=True)
class Recipe:
    transcription: Callable[[Problem, Tensor, int], Tensor]
    block: Callable[[Measurement], Guidance]
    amount: float = 1.0
    rule: str = "eta"
    sigma: float = 0.0


RECIPES = {
    "DPS": Recipe(dps, lambda m: DPS(m, 0.4), sigma=0.1),
    "DDNM": Recipe(ddnm, DDNM),
    "DDNM+": Recipe(ddnm_plus, DDNM, 0.0, sigma=0.1),
    "DiffPIR": Recipe(diffpir, lambda m: DiffPIR(m, 2.0), 0.3, "zeta", 0.1),
    "Pi-GDM": Recipe(pigdm, PiGDMPublished, 0.5, sigma=0.1),
    "MPGD": Recipe(mpgd, lambda m: MPGD(m, 0.2), 0.0),
    "Score-SDE": Recipe(score_sde, NoisedProjection),
    "MCG": Recipe(mcg, lambda m: MCG(m, 0.4)),
    "DSG": Recipe(dsg, DSG, sigma=0.1),
    "DDRM": Recipe(ddrm, lambda m: DDRM(m, 0.85, 0.9), 0.0, sigma=0.1),
}


@pytest.mark.parametrize("name", RECIPES)
def test_follows_the_published_algorithm(name: str):
    recipe = RECIPES[name]
    matrix = matrices(4)["random"]
    truth = PRIOR.sample(1, 4)  # a picture in [-1, 1]
    z = torch.randn(1, 8, dtype=F64, generator=torch.Generator().manual_seed(2))
    y = truth.flatten(1) @ matrix.T + recipe.sigma * z
    # the same measurement of the picture in [0, 1]: A (x + 1) / 2
    native = (y + matrix.sum(1)) / 2
    block = recipe.block(Measurement(Dense(matrix, SHAPE), native, GaussianNoise(recipe.sigma / 2)))

    start = torch.randn(2, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(6))
    draws = Streams(8, "sampling", 2)
    problem = Problem(matrix, y, recipe.sigma, lambda: draws.normal(start))
    trajectory, x = [], start
    for i in range(STEPS, 0, -1):
        trajectory.append(x)
        x = recipe.transcription(problem, x, i)
    trajectory.append(x)

    levels = [Level(1.0, ((1 - a) / a).sqrt().item() / 2, 2.0) for a in ALPHA_BAR.flip(0)]
    index = {level.sigma: STEPS - i for i, level in enumerate(levels)}

    def denoiser(u: Tensor, level: Level) -> Tensor:
        i = index[level.sigma]
        return (predicted((2 * u - 1) * ALPHA_BAR[i].sqrt(), i) + 1) / 2

    ours: list[Tensor] = []

    def record(i: int, u: Tensor, x0: Tensor, t: Level) -> None:
        ours.append((2 * u - 1) * ALPHA_BAR[STEPS - i].sqrt())

    u = (start / ALPHA_BAR[-1].sqrt() + 1) / 2
    run = Run(denoiser, levels, [block], Streams(8, "sampling", 2), record)
    end = GuidedDDIM(recipe.amount, recipe.rule)(run, u)
    ours.append(2 * end - 1)
    for step, (theirs, mine) in enumerate(zip(trajectory, ours, strict=True)):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6, msg=lambda m, step=step: f"step {step}: {m}")


def test_snips_is_its_score_taken_with_its_step_lengths():
    """Section 3 of SNIPS, each singular direction on its own: x + step (likelihood, and score where it counts)."""
    matrix, sigma, sigma_y = matrices(4)["random"], 0.4, 0.25
    x = 2 * torch.randn(1, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(3))
    y = torch.randn(1, 8, dtype=F64, generator=torch.Generator().manual_seed(4))
    u, s, vh = torch.linalg.svd(matrix, full_matrices=True)
    state = predict(PRIOR.denoiser, x, Level(1.0, sigma))
    x_bar, score, seen = x.flatten(1) @ vh.T, (state.x0 - x).flatten(1) @ vh.T / sigma**2, y @ u
    out = x_bar + sigma**2 * score
    for k in range(8):
        likelihood = s[k] * (seen[:, k] - s[k] * x_bar[:, k]) / abs(sigma_y**2 - (s[k] * sigma) ** 2)
        if s[k] * sigma < sigma_y:
            step, gradient = sigma**2 * (1 - (s[k] * sigma / sigma_y) ** 2), likelihood + score[:, k]
        else:
            step, gradient = sigma**2 - (sigma_y / s[k]) ** 2, likelihood
        out[:, k] = x_bar[:, k] + step * gradient
    assert (s * sigma < sigma_y).any() and (s * sigma > sigma_y).any()
    block = SNIPS(Measurement(Dense(matrix, SHAPE), y, GaussianNoise(sigma_y)))
    torch.testing.assert_close(block.estimate(state, state.x0).x0, (out @ vh).reshape(x.shape))


def test_the_recipes_problem_is_not_linear():
    """The transcriptions would prove less on a network whose Jacobian is constant."""
    states = [part.mean[None] * ALPHA_BAR[10].sqrt() for part in PRIOR.components[:2]]
    jacobians = [torch.func.jacrev(lambda x: predicted(x, 10))(state) for state in states]
    assert (jacobians[0] - jacobians[1]).norm() > 0.1 * jacobians[0].norm()


def test_several_dsg_blocks_stay_on_one_sphere():
    """Case C3: agreeing blocks are one of twice the rate, opposite ones turn nothing, none leaves the sphere."""
    g = torch.Generator().manual_seed(2)
    z, ascent, other = (torch.randn(3, *SHAPE, dtype=F64, generator=g) for _ in range(3))
    unit, across = ascent / sample_norm(ascent), other / sample_norm(other)
    alone = turned(z, 0.4 * unit)
    for total in (0.2 * unit + 0.2 * unit, 0.2 * unit + 0.2 * across, 0.9 * unit + 0.9 * across, 0.0 * unit):
        assert turned(z, total).flatten(1).norm(dim=1) == pytest.approx([4.0] * 3)
    torch.testing.assert_close(turned(z, 0.2 * unit + 0.2 * unit), alone)
    torch.testing.assert_close(turned(z, 0.2 * unit - 0.2 * unit), 4 * z / sample_norm(z))
    assert turned(z, 0.0) is z

    matrix, truth = matrices(4)["random"], PRIOR.sample(1, 4)
    measurement = Measurement.simulate(Dense(matrix, SHAPE), truth, GaussianNoise(0.1), 0)
    blocks, t, s = [DSG(measurement), DSG(measurement, 0.3)], Level(1.0, 2.0), Level(1.0, 1.5)
    x = 2 * z
    x_s = GuidedDDIM(1.0)(Run(PRIOR.denoiser, [t, s], blocks, Streams(1, "sampling", 3)), x)
    x0, v = PRIOR.denoiser(x, t), fresh_noise(t, s, 1.0)
    mean = x0 + (1.5**2 - v**2) ** 0.5 * (x - x0) / 2
    assert (x_s - mean).flatten(1).norm(dim=1) == pytest.approx([4 * v] * 3)
