"""Published algorithms, transcribed from their papers: variance-preserving states of pictures in [-1, 1], and betas."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from guidance_rows import F64, random_prior
from torch import Tensor

from posterior.diffusion.level import Level
from posterior.priors.mixture import GaussianMixture

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
