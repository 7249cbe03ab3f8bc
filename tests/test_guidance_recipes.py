"""Published algorithms, transcribed from their papers, against our blocks in our sampler: the same trajectory.

The papers work with variance-preserving states of pictures in [-1, 1] and betas; we with any alpha and sigma and
pictures in [0, 1]. Both get the same network and the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from guidance_rows import F64, matrices, one_thread, random_prior  # noqa: F401
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
from posterior.priors.mixture import GaussianMixture
from posterior.samplers.ddim import GuidedDDIM, fresh_noise

SHAPE = (1, 4, 4)
PRIOR = GaussianMixture([random_prior(4, seed) for seed in (0, 1, 2)], torch.tensor([0.5, 0.3, 0.2], dtype=F64))
STEPS = 25
BETA = torch.linspace(1e-3, 0.35, STEPS, dtype=F64)
#: alpha_bar[i] of step i, 1 at i = 0
ALPHA_BAR = torch.cat([torch.ones(1, dtype=F64), (1 - BETA).cumprod(0)])


def network(x: Tensor, i: int) -> Tensor:
    """The noise prediction at x_i, variance preserving, pictures in [-1, 1]: exact for a mixture, not linear."""
    a = ALPHA_BAR[i].item()
    x0 = PRIOR.denoiser(x, Level(math.sqrt(a), math.sqrt(1 - a)))
    return (x - math.sqrt(a) * x0) / math.sqrt(1 - a)


def predicted(x: Tensor, i: int) -> Tensor:
    return (x - (1 - ALPHA_BAR[i]).sqrt() * network(x, i)) / ALPHA_BAR[i].sqrt()


@dataclass
class Problem:
    """y = A x_m in the papers' units ([-1, 1]), and the fresh noise of each step."""

    A: Tensor
    y: Tensor
    sigma: float
    noise: Callable[[], Tensor]

    def residual(self, x0: Tensor) -> Tensor:
        return self.y - x0.flatten(1) @ self.A.T

    def ascent(self, x: Tensor, i: int, power: int = 1) -> Tensor:
        """-grad_x norm(y - A x0_hat(x))^power for each sample, by autograd."""
        leaf = x.clone().requires_grad_()
        with torch.enable_grad():
            norms = self.residual(predicted(leaf, i)).norm(dim=1) ** power
        return -torch.autograd.grad(norms.sum(), leaf)[0]


def ancestral(x: Tensor, x0: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(x_{i-1} given x_i, x_0) (Ho et al. 2020, eq. 7)."""
    beta, now, then = BETA[i - 1], ALPHA_BAR[i], ALPHA_BAR[i - 1]
    mean = then.sqrt() * beta / (1 - now) * x0 + (1 - beta).sqrt() * (1 - then) / (1 - now) * x
    return mean, (beta * (1 - then) / (1 - now)).sqrt()


def dps(p: Problem, x: Tensor, i: int) -> Tensor:
    """Algorithm 1 of DPS, zeta' = 0.4."""
    mean, deviation = ancestral(x, predicted(x, i), i)
    z = p.noise() if i > 1 else 0.0
    return mean + deviation * z + 0.4 * p.ascent(x, i)


def ddnm(p: Problem, x: Tensor, i: int) -> Tensor:
    """Algorithm 1 of DDNM."""
    x0 = predicted(x, i)
    x0 = x0 + (p.residual(x0) @ torch.linalg.pinv(p.A).T).reshape(x.shape)
    mean, deviation = ancestral(x, x0, i)
    return mean + deviation * (p.noise() if i > 1 else 0.0)


def diffpir(p: Problem, x: Tensor, i: int) -> Tensor:
    """Algorithm 1 of DiffPIR, lambda = 2, zeta = 0.3."""
    now, then = ALPHA_BAR[i], ALPHA_BAR[i - 1]
    rho = 2 * p.sigma**2 * now / (1 - now)
    system = p.A.T @ p.A + rho * torch.eye(16, dtype=F64)
    x0 = torch.linalg.solve(system, p.y @ p.A + rho * predicted(x, i).flatten(1), left=False).reshape(x.shape)
    eps = (x - now.sqrt() * x0) / (1 - now).sqrt()
    z = p.noise() if i > 1 else 0.0
    return then.sqrt() * x0 + (1 - then).sqrt() * (math.sqrt(0.7) * eps + math.sqrt(0.3) * z)


def pigdm(p: Problem, x: Tensor, i: int) -> Tensor:
    """Algorithm 1 of Pi-GDM with noise, eta = 0.5."""
    now, then = ALPHA_BAR[i], ALPHA_BAR[i - 1]
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        x0 = predicted(leaf, i)
    variance = 1 - now  # r_t^2 = sigma^2 / (1 + sigma^2)
    gram = p.A @ p.A.T + p.sigma**2 / variance * torch.eye(len(p.A), dtype=F64)
    lifted = torch.linalg.solve(gram, p.residual(x0.detach()).T).T @ p.A
    (g,) = torch.autograd.grad(x0, leaf, lifted.reshape(x.shape))
    c1 = 0.5 * ((1 - now / then) * (1 - then) / (1 - now)).sqrt()
    c2 = (1 - then - c1**2).clamp_min(0).sqrt()
    z = p.noise() if i > 1 else 0.0
    return then.sqrt() * x0.detach() + c1 * z + c2 * network(x, i) + now.sqrt() * g


def mpgd(p: Problem, x: Tensor, i: int) -> Tensor:
    """MPGD's code without an autoencoder, scale 0.2, in DDIM with eta = 0."""
    now, then = ALPHA_BAR[i], ALPHA_BAR[i - 1]
    x0 = predicted(x, i)
    r = p.residual(x0)
    x0 = x0 + 0.2 / now.sqrt() * (r / r.norm(dim=1, keepdim=True) @ p.A).reshape(x.shape)
    return then.sqrt() * x0 + (1 - then).sqrt() * (x - now.sqrt() * x0) / (1 - now).sqrt()


def projected(p: Problem, x: Tensor, i: int) -> Tensor:
    """y_s = sqrt(alpha_bar) y + sqrt(1 - alpha_bar) A z in place of A x, what A cannot see as it is."""
    then = ALPHA_BAR[i - 1]
    pinv = torch.linalg.pinv(p.A)
    seen = (then.sqrt() * p.y + (1 - then).sqrt() * p.noise().flatten(1) @ p.A.T) @ pinv.T
    flat = x.flatten(1)
    return (flat - flat @ p.A.T @ pinv.T + seen).reshape(x.shape)


def score_sde(p: Problem, x: Tensor, i: int) -> Tensor:
    """Controllable generation of Score-SDE (appendix I) after an ancestral step."""
    mean, deviation = ancestral(x, predicted(x, i), i)
    return projected(p, mean + deviation * (p.noise() if i > 1 else 0.0), i)


def mcg(p: Problem, x: Tensor, i: int) -> Tensor:
    """Algorithm 1 of MCG, with a gradient of the norm, 0.4."""
    mean, deviation = ancestral(x, predicted(x, i), i)
    z = p.noise() if i > 1 else 0.0
    return projected(p, mean + deviation * z + 0.4 * p.ascent(x, i), i)


def dsg(p: Problem, x: Tensor, i: int) -> Tensor:
    """Algorithm 1 of DSG, guidance rate 0.2."""
    mean, deviation = ancestral(x, predicted(x, i), i)
    if i == 1:
        return mean
    radius, g = math.sqrt(16) * deviation, p.ascent(x, i, 2)
    size = (-1, 1, 1, 1)
    direction = deviation * p.noise()
    direction = direction + 0.2 * (radius * g / g.flatten(1).norm(dim=1).reshape(size) - direction)
    return mean + radius * direction / direction.flatten(1).norm(dim=1).reshape(size)


def ddrm(p: Problem, x: Tensor, i: int) -> Tensor:
    """Equations 7 and 8 of DDRM, one singular direction after another; eta = 0.85, eta_b = 0.9."""
    now, then = ALPHA_BAR[i], ALPHA_BAR[i - 1]
    sigma, sigma_s = ((1 - now) / now).sqrt().item(), ((1 - then) / then).sqrt().item()
    u, s, vh = torch.linalg.svd(p.A, full_matrices=True)
    x0, state, z = (v.flatten(1) @ vh.T for v in (predicted(x, i), x / now.sqrt(), p.noise()))
    y = p.y @ u
    out = torch.empty_like(x0)
    for k in range(16):
        if k >= len(s):
            out[:, k] = x0[:, k] + math.sqrt(1 - 0.85**2) * sigma_s * (state[:, k] - x0[:, k]) / sigma
            out[:, k] += 0.85 * sigma_s * z[:, k]
        elif sigma_s < p.sigma / s[k]:
            out[:, k] = x0[:, k] + math.sqrt(1 - 0.85**2) * sigma_s * (y[:, k] / s[k] - x0[:, k]) / (p.sigma / s[k])
            out[:, k] += 0.85 * sigma_s * z[:, k]
        else:
            out[:, k] = 0.1 * x0[:, k] + 0.9 * y[:, k] / s[k]
            out[:, k] += (sigma_s**2 - (0.9 * p.sigma / s[k]) ** 2).sqrt() * z[:, k]
    return then.sqrt() * (out @ vh).reshape(x.shape)


def ddnm_plus(p: Problem, x: Tensor, i: int) -> Tensor:
    """Equations 17 and 51 of DDNM+, one singular direction after another; eta = 0."""
    then = ALPHA_BAR[i - 1]
    a, sigma_s = then.sqrt(), (1 - then).sqrt()
    u, s, vh = torch.linalg.svd(p.A, full_matrices=True)
    eps, x0 = network(x, i).flatten(1) @ vh.T, predicted(x, i).flatten(1) @ vh.T
    y, z = p.y @ u, (p.noise() if i > 1 else torch.zeros_like(x)).flatten(1) @ vh.T
    out = a * x0 + sigma_s * eps
    for k in range(len(s)):
        if sigma_s < a * p.sigma / s[k]:
            share, left = s[k] * sigma_s / (a * p.sigma), torch.zeros(())
        else:
            share, left = 1.0, (sigma_s**2 - (a * p.sigma / s[k]) ** 2).sqrt()
        out[:, k] = a * (x0[:, k] + share * (y[:, k] / s[k] - x0[:, k])) + left * z[:, k]
    return (out @ vh).reshape(x.shape)


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
