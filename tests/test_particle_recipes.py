"""Published particle filters as plain, independent transcriptions: the same noise, the same picture."""

from __future__ import annotations

import math

import pytest
import torch
from guidance_rows import F64, matrices, measure, one_thread, random_prior  # noqa: F401
from test_particles import falling
from torch import Tensor

from posterior.algebra.streams import Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.guidance.base import Guidance
from posterior.guidance.pigdm import PiGDM
from posterior.samplers.mcgdiff import MCGDiff
from posterior.samplers.particles import ParticleSampler
from posterior.samplers.tds import TDS


def alone(sampler: ParticleSampler, block: Guidance, levels, seed: int = 3) -> tuple[Tensor, Tensor, Streams]:
    """What the sampler makes of one sample, its start, and the streams that it had."""
    shape = block.measurement.image_shape
    start = levels[0].sigma * torch.randn(1, *shape, dtype=F64, generator=torch.Generator().manual_seed(seed))
    x = sampler(Run(random_prior(2).denoiser, levels, [block], Streams(seed, "test")), start)
    return x, start, Streams(seed, "test")


def resampled(log_w: Tensor, draw: Streams, threshold: float) -> tuple[Tensor, Tensor]:
    """Ancestors and weights after them, particle by particle."""
    w, u = (log_w - log_w.max()).exp(), draw.of("resampling").uniform().item()
    w = w / w.sum()
    if 1 / (w**2).sum() >= threshold * len(w):
        return torch.arange(len(w)), log_w
    edges, ancestors = w.cumsum(0), []
    for i in range(len(w)):
        ancestors.append(int((edges <= (i + u) / len(w)).sum()))
    return torch.tensor(ancestors), torch.zeros_like(log_w)


def chosen(log_w: Tensor, draw: Streams) -> int:
    w = (log_w - log_w.max()).exp()
    return int(((w / w.sum()).cumsum(0) <= draw.of("resampling").uniform().item()).sum())


@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_tds_as_its_algorithm(threshold):
    """Algorithm 1 with Pi-GDM's gradient, in dense algebra."""
    prior, matrix, n, levels = random_prior(2), matrices(2)["random"], 6, falling(8, 8.0, 0.1)
    measurement, sigma = measure(prior, matrix, 0.5), 0.5
    found, start, draw = alone(TDS(count=n, threshold=threshold), PiGDM(measurement), levels)
    y, mu, covariance = measurement.y[0], prior.mean.flatten(), prior.covariance()
    x = levels[0].sigma * draw.of("particles").normal(start.expand(n, -1, -1, -1)).flatten(1)
    x[0] = start.flatten()
    log_w, log_ratio = torch.zeros(n, dtype=F64), torch.zeros(n, dtype=F64)
    for t, s in zip(levels[:-1], levels[1:], strict=True):
        jacobian = covariance @ torch.linalg.inv(covariance + t.sigma**2 * torch.eye(4, dtype=F64))
        x0 = mu + (x - mu) @ jacobian.T
        r2 = t.sigma**2 / (1 + t.sigma**2)
        evidence = torch.linalg.inv(r2 * matrix @ matrix.T + sigma**2 * torch.eye(2, dtype=F64))
        miss = y - x0 @ matrix.T
        psi = -0.5 * torch.einsum("ni,ij,nj->n", miss, evidence, miss)
        log_w = log_w + log_ratio + psi
        ancestors, log_w = resampled(log_w, draw, threshold)
        x, x0, miss, psi = x[ancestors], x0[ancestors], miss[ancestors], psi[ancestors]
        z = draw.normal(x.reshape(n, 1, 2, 2)).flatten(1)
        if s.sigma == 0:
            x, log_ratio = x0, -psi
            continue
        twisted = x0 + t.sigma**2 * miss @ evidence @ matrix @ jacobian
        a, v = (s.sigma / t.sigma) ** 2, s.sigma * math.sqrt(1 - (s.sigma / t.sigma) ** 2)
        mean, turned = a * x + (1 - a) * x0, a * x + (1 - a) * twisted
        x = turned + v * z
        log_ratio = -(((x - mean) ** 2).sum(1) - ((x - turned) ** 2).sum(1)) / (2 * v**2) - psi
    log_w = log_w + log_ratio - ((y - x @ matrix.T) ** 2).sum(1) / (2 * sigma**2)
    assert (found.flatten() - x[chosen(log_w, draw)]).abs().max() < 1e-8


def test_mcgdiff_as_its_algorithm():
    """Algorithm 1 in the singular directions and variance-preserving levels, with tau_i among them."""
    prior, matrix, n, kappa = random_prior(2), matrices(2)["random"], 6, 1e-3
    measurement, sigma = measure(prior, matrix, 0.3), 0.3
    u, s, vh = torch.linalg.svd(matrix)
    taus = (sigma / s).tolist()
    ratios = sorted({*(8.0 * 0.0125 ** (i / 7) for i in range(8)), *(tau * (1 + 1e-9) for tau in taus)}, reverse=True)
    levels = [*(Level(1 / math.hypot(1, r), r / math.hypot(1, r)) for r in ratios), Level(1.0, 0.0)]
    found, start, draw = alone(MCGDiff(count=n, threshold=1.0, kappa=kappa), Guidance(measurement), levels)
    y_bar, mu, covariance = (measurement.y[0] @ u) / s, prior.mean.flatten(), prior.covariance()
    x = levels[0].sigma * draw.of("particles").normal(start.expand(n, -1, -1, -1)).flatten(1)
    x[0] = start.flatten()
    log_ratio = torch.zeros(n, dtype=F64)

    def target(level: Level) -> tuple[list[int], Tensor, Tensor]:
        """Directions that are active, and the mean and variance of each (abar as in the paper)."""
        active = [i for i in range(2) if level.sigma / level.alpha >= taus[i]]
        share = torch.tensor([level.alpha**2 * (1 + taus[i] ** 2) for i in active], dtype=F64)  # abar_s / abar_tau
        return active, level.alpha * y_bar[active], 1 - (1 - kappa) * share

    for k, (t, to) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        total = t.alpha**2 * covariance + t.sigma**2 * torch.eye(4, dtype=F64)
        x0 = mu + t.alpha * (x - t.alpha * mu) @ torch.linalg.inv(total) @ covariance
        r = t.alpha * to.sigma / (to.alpha * t.sigma)
        v = to.sigma * math.sqrt(1 - r**2)
        mean = to.alpha * x0 + to.sigma * r / t.sigma * (x - t.alpha * x0) if to.sigma else x0
        mean = mean @ vh.T
        active, centre, var = target(to)
        log_w = log_ratio - ((mean[:, active] - centre) ** 2 / (v**2 + var)).sum(1) / 2
        ancestors, _ = resampled(log_w, draw, 1.0)
        z = draw.normal(x.reshape(n, 1, 2, 2)).flatten(1) @ vh.T
        mean = mean[ancestors]
        x = mean + v * z
        gain = v**2 / (v**2 + var)
        x[:, active] = mean[:, active] + gain * (centre - mean[:, active]) + (gain * var).sqrt() * z[:, active]
        later, *_ = target(levels[k + 2]) if k + 2 < len(levels) else ([],)
        kept = [i for i, direction in enumerate(active) if direction in later]
        log_ratio = ((x[:, active] - centre) ** 2 / var)[:, kept].sum(1) / 2
        x = x @ vh
    assert (found.flatten() - x[chosen(torch.zeros(n), draw)]).abs().max() < 1e-8
