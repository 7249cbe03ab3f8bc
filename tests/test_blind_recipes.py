"""Published blind algorithms, transcribed from their papers, against ours: the same trajectory from the same noise.

Pictures in [-1, 1] and variance-preserving states there, [0, 1] and exploding ones here, as in `test_guidance_recipes`.
Where a paper has a second diffusion model for kernels (BlindDPS) or thousands of Langevin steps (GibbsDDRM), ours has
the best parameter of a kind and an exact draw, and so have the transcriptions, each by other means.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from guidance_rows import F64, one_thread, random_prior  # noqa: F401
from torch import Tensor

from posterior.algebra.streams import Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.guidance.base import Guidance
from posterior.guidance.ddrm import DDRM
from posterior.guidance.dps import DPS
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.families import Exposure, FreeKernel, GaussianWidth
from posterior.operators.identity import Identity
from posterior.priors.mixture import GaussianMixture
from posterior.samplers.base import Sampler
from posterior.samplers.blind import Blind
from posterior.samplers.blind_red_diff import BlindREDDiff
from posterior.samplers.ddim import GuidedDDIM
from posterior.samplers.unknown import Unknown

SIDE, STEPS = 8, 20
PRIOR = GaussianMixture([random_prior(SIDE, seed) for seed in (0, 1, 2)], torch.tensor([0.5, 0.3, 0.2], dtype=F64))
BETA = torch.linspace(1e-3, 0.35, STEPS, dtype=F64)
#: alpha_bar[i] of step i, 1 at i = 0
ALPHA_BAR = torch.cat([torch.ones(1, dtype=F64), (1 - BETA).cumprod(0)])
START = torch.randn(2, 1, SIDE, SIDE, dtype=F64, generator=torch.Generator().manual_seed(6))


def predicted(x: Tensor, i: int) -> Tensor:
    """x0_hat at x_i, variance preserving, pictures in [-1, 1]."""
    a = ALPHA_BAR[i].item()
    return PRIOR.denoiser(x, Level(math.sqrt(a), math.sqrt(1 - a)))


def ours(sampler: Sampler, block: Callable[[Measurement], Guidance], y: Tensor, sigma: float) -> tuple[Tensor, Run]:
    """The end in [-1, 1]. y and sigma: native, in [0, 1]."""
    levels = [Level(1.0, ((1 - a) / a).sqrt().item() / 2, 2.0) for a in ALPHA_BAR.flip(0)]
    index = {level.sigma: STEPS - i for i, level in enumerate(levels)}

    def denoiser(u: Tensor, level: Level) -> Tensor:
        i = index[level.sigma]
        return (predicted((2 * u - 1) * ALPHA_BAR[i].sqrt(), i) + 1) / 2

    measurement = Measurement(Identity(), y, GaussianNoise(sigma))
    run = Run(denoiser, levels, [block(measurement)], Streams(8, "sampling", 2))
    return 2 * sampler(run, (START / ALPHA_BAR[-1].sqrt() + 1) / 2) - 1, run


def around(x: Tensor, kernel: Tensor) -> Tensor:
    """k * x for one picture, `1 1 n n`, going on at the other side; kernel `m m`."""
    r = kernel.shape[-1] // 2
    return F.conv2d(F.pad(x, (r, r, r, r), "circular"), kernel.flip(0, 1)[None, None])


def gaussian(s: Tensor) -> Tensor:
    line = torch.arange(-3, 4, dtype=F64)
    k = (-(line[:, None] ** 2 + line**2) / (2 * s**2)).exp()
    return k / k.sum()


def test_blind_dps():
    """Algorithm 1 of BlindDPS, zeta' = 0.4: the width that fits x0_hat best by golden section, then DPS's step."""
    y = around(PRIOR.sample(1, 4), gaussian(torch.tensor(0.8, dtype=F64)))
    draws, x, ratio, path = Streams(8, "sampling", 2), START, (math.sqrt(5) - 1) / 2, []

    def width(x0: Tensor) -> Tensor:
        low, high = 0.3, 7 / 6
        for _ in range(45):
            a, b = high - ratio * (high - low), low + ratio * (high - low)
            far = [(y - around(x0, gaussian(torch.tensor(s, dtype=F64)))).norm().item() for s in (a, b)]
            low, high = (low, b) if far[0] < far[1] else (a, high)
        return torch.tensor((low + high) / 2, dtype=F64)

    widths = torch.full((2,), 0.6, dtype=F64)
    for i in range(STEPS, 0, -1):
        if (STEPS - i) / STEPS >= 0.5:
            widths = torch.stack([width(x0[None]) for x0 in predicted(x, i)])
        path.append(widths[0].item())
        leaf = x.clone().requires_grad_()
        with torch.enable_grad():
            x0 = predicted(leaf, i)
            pairs = zip(x0, widths, strict=True)
            misfit = sum((y - around(each[None], gaussian(s))).norm() for each, s in pairs)
        (slope,) = torch.autograd.grad(misfit, leaf)
        beta, now, then = BETA[i - 1], ALPHA_BAR[i], ALPHA_BAR[i - 1]
        mean = then.sqrt() * beta / (1 - now) * x0.detach() + (1 - beta).sqrt() * (1 - then) / (1 - now) * x
        z = draws.normal(x) if i > 1 else 0.0
        x = mean + (beta * (1 - then) / (1 - now)).sqrt() * z - 0.4 * slope
    unknown = Unknown(GaussianWidth(7, "circular", 0.6), rounds=40)
    found, run = ours(Blind(unknown, GuidedDDIM(1.0), 0.5), lambda m: DPS(m, 0.4), (y + 1) / 2, 0.01)
    assert max(path) - min(path) > 0.1
    assert abs(run.record["sigma (px)"][-1] - path[-1]) < 1e-5
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)


def test_gibbs_ddrm():
    """Section 3 of GibbsDDRM, eta = 0.85, eta_b = 0.9, from the first step on: levels drawn given x0_hat, then
    equations 7 and 8 of DDRM, here for the one singular value a."""
    sigma, truth = 0.1, PRIOR.sample(1, 4)
    y = 0.6 * truth + 0.3 + sigma * torch.randn(1, 1, SIDE, SIDE, dtype=F64, generator=torch.Generator().manual_seed(2))
    native = (y + 1) / 2
    draws, x = Streams(8, "sampling", 2), START
    for i in range(STEPS, 0, -1):
        now, then = ALPHA_BAR[i], ALPHA_BAR[i - 1]
        x0 = predicted(x, i)
        columns = torch.stack([(x0.flatten(1) + 1) / 2, torch.ones(2, SIDE**2, dtype=F64)], 2)
        best = torch.linalg.lstsq(columns, native.flatten(1)[..., None].expand(2, -1, -1)).solution
        covariance = (sigma / 2) ** 2 * torch.linalg.inv(columns.mT @ columns)
        # N(0, P^-1) from z by the factor of the precision P = L L^T
        root = torch.linalg.inv(torch.linalg.cholesky(torch.linalg.inv(covariance))).mT
        theta = best + root @ draws.of("unknown").normal(best[..., 0])[..., None]
        a, b = theta[:, 0, :, None, None], theta[:, 1, :, None, None]
        back = 2 * (native - b) / a - 1
        wide, sigma_s = ((1 - now) / now).sqrt(), ((1 - then) / then).sqrt()
        z, tau = draws.normal(x), sigma / a
        worse = x0 + math.sqrt(1 - 0.85**2) * sigma_s * (back - x0) / tau + 0.85 * sigma_s * z
        better = 0.1 * x0 + 0.9 * back + (sigma_s**2 - (0.9 * tau) ** 2).clamp_min(0).sqrt() * z
        assert wide > sigma_s
        x = then.sqrt() * torch.where(sigma_s < tau, worse, better)
    unknown = Unknown(Exposure(), update="draw")
    found, run = ours(Blind(unknown, GuidedDDIM(0.0), 0.0), lambda m: DDRM(m, 0.85, 0.9), native, sigma / 2)
    torch.testing.assert_close(run.record["theta"], theta[..., 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)


def test_blind_red_diff():
    """Section 3.2.2 of the survey: torch's Adam on autograd's gradients of picture and kernel, the softmax of phi."""
    y = around(PRIOR.sample(1, 4), torch.tensor([[0.0, 0.1, 0.0], [0.2, 0.4, 0.3], [0.0, 0.0, 0.0]], dtype=F64))
    mu = y.expand(2, -1, -1, -1).clone().requires_grad_()
    phi = FreeKernel(3).start().to(F64).repeat(2, 1).requires_grad_()
    # eps is 1e-8 for gradients in [0, 1], which are a half and a quarter of these
    groups = [{"params": [mu], "lr": 0.1, "eps": 2e-8}, {"params": [phi], "lr": 0.05, "eps": 4e-8}]
    adam = torch.optim.Adam(groups, betas=(0.9, 0.99))
    draws = Streams(8, "sampling", 2)
    for i in range(STEPS, 0, -1):
        bar, noise = ALPHA_BAR[i], draws.normal(mu.detach())
        x_t = bar.sqrt() * mu.detach() + (1 - bar).sqrt() * noise
        eps = (x_t - bar.sqrt() * predicted(x_t, i)) / (1 - bar).sqrt()
        kernels = phi.softmax(1).view(2, 3, 3)
        blurred = torch.cat([around(each[None], k) for each, k in zip(mu, kernels, strict=True)])
        weight = ((1 - bar) / bar).sqrt()
        adam.zero_grad()
        ((y - blurred).square().sum() / 2 + 0.25 * weight * ((eps - noise) * mu).sum()).backward()
        adam.step()
    sampler = BlindREDDiff(Unknown(FreeKernel(3, "circular")), 0.25, 0.1, 0.05)
    found, run = ours(sampler, Guidance, (y + 1) / 2, 0.01)
    torch.testing.assert_close(run.record["kernel"][:, 0], phi.detach().softmax(1).view(2, 3, 3), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, mu.detach(), rtol=1e-5, atol=1e-5)
