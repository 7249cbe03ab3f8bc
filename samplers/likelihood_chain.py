"""The likelihood's turn of DAPS and PnP-DM: draws from p(y given x) N(x; m, r^2 I).

A linear A with Gaussian noise has an exact draw, by perturb and solve with n, n' ~ N(0, I):

    x = argmin_x norm(A x - (y + sigma_y n'))^2 / sigma_y^2 + norm(x - (m + r n))^2 / r^2

Any other A takes a Markov chain on U(x) = -log p(y given x) + norm(x - m)^2 / (2 r^2), whose steps are leaps of a
Hamiltonian flow with fresh momenta p ~ N(0, I) (Neal 2011, https://arxiv.org/abs/1206.1901):

    p <- p - (e / 2) grad U(x),    x <- x + e p,    p <- p - (e / 2) grad U(x)

    Langevin    one leap, always taken: x - h grad U + sqrt(2 h) n with h = e^2 / 2, off by an amount of order h
    MALA        one leap, taken with probability min(1, e^-dH), H = U + norm(p)^2 / 2: exact (Roberts and Tweedie 1996)
    HMC         several leaps before the choice: exact, and further on

The step follows the curvature: h = size / (L + 1 / r^2), where L = norm of the Hessian of -log p(y given x) is found by
power iteration on differences of its gradient, which goes on where it was from turn to turn. Exact kernels also learn
from what they accepted in earlier turns, each sample for itself and less and less (Andrieu and Thoms 2008,
https://doi.org/10.1007/s11222-008-9110-y). A published step `rate` replaces the curvature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..algebra.checkpoint import checkpoint
from ..algebra.norms import sample_norm
from ..algebra.streams import Streams
from ..measurement.measurement import Measurement
from ..measurement.noise import ROUNDING, GaussianNoise

Kernel = Literal["HMC", "MALA", "Langevin"]
#: share of steps to be taken at which a chain moves fastest (Roberts and Rosenthal 1998; Beskos et al. 2013)
WANTED = {"MALA": 0.574, "HMC": 0.651}
#: distance, root mean square, at which gradients are compared: a few steps of 8 bits
APART = 0.02
#: U(x) per sample, `B`, and its gradient
Energy = Callable[[Tensor], tuple[Tensor, Tensor]]


def likelihood_draw(measurement: Measurement, x: Tensor, rho: float, draw: Streams) -> Tensor:
    """z ~ p(y given z) exp(-norm(x - z)^2 / (2 rho^2)), exactly. measurement: linear, of one noise level."""
    sigma = measurement.noise.sigma
    y = measurement.y.expand(len(x), *measurement.y.shape[1:])
    perturbed = y + sigma * draw.normal(y)
    return measurement.operator.prox(x + rho * draw.normal(x), perturbed, max((sigma / rho) ** 2, 1e-8))


def with_noise(measurement: Measurement) -> Measurement:
    """The same measurement with some noise everywhere: at least the rounding of 8 bits, where it is Gaussian."""
    if not isinstance(measurement.noise, GaussianNoise):
        return measurement
    sigma = measurement.noise.sigma
    sigma = sigma.clamp_min(ROUNDING) if isinstance(sigma, Tensor) else max(sigma, ROUNDING)
    return replace(measurement, noise=GaussianNoise(sigma))


def evidence(measurement: Measurement, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(y given x) per sample up to a constant, `B`, and its gradient, `B C H W`; see `with_noise`."""
    clean, pull_back = measurement.operator.linearise(x)
    residual, noise = measurement.y - clean, measurement.noise
    return noise.log_likelihood(residual, measurement.y), pull_back(noise.score(residual, measurement.y))


def hamiltonian_leaps(
    energy: Energy, x: Tensor, gradient: Tensor, p: Tensor, e: Tensor, leaps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x, U, grad U, p) after some leaps of length e, a number per sample; reversible, and keeps the volume."""
    for _ in range(leaps):
        p = p - e / 2 * gradient
        x = x + e * p
        u, gradient = energy(x)
        p = p - e / 2 * gradient
    return x, u, gradient, p


@dataclass(frozen=True)
class Chain:
    """How a likelihood without an exact draw is sampled.

    Args:
        kernel: HMC, MALA or Langevin.
        steps: gradients of the likelihood in a turn, about, >= 1.
        size: h in units of 1 / (largest curvature), in (0, 2), where the exact kernels begin.
        leaps: of HMC before it chooses, >= 1.
        rate: h itself in the square of the model's unit, as published codes have it; 0 follows the curvature.
    """

    kernel: Kernel = "HMC"
    steps: int = 20
    size: float = 0.3
    leaps: int = 5
    rate: float = 0.0


class Likelihood:
    """Draws of a run from p(y given x) N(x; m, r^2 I).

    Args:
        measurement: what was measured.
        chain: for what has no exact draw.
        draw: fresh randomness.
        exact: whether linear measurements are drawn exactly; otherwise they take the chain too.
    """

    def __init__(self, measurement: Measurement, chain: Chain, draw: Streams, exact: bool = True):
        self.exact = exact and measurement.operator.linear
        self.measurement = measurement.whitened().resolved() if self.exact else with_noise(measurement)
        self.chain, self.draw = chain, draw
        self.taken: list[Tensor] = []  # mean chance of a step in each turn, `B`
        self._growth: Tensor | None = None  # log of what the step has learnt, `B 1 1 1`
        self._curvature = Curvature(self.measurement, draw)

    def __call__(
        self, m: Tensor, r: float, start: Tensor | None = None, scale: float = 1.0, share: float = 1.0
    ) -> Tensor:
        """A draw, or the end of a chain.

        Args:
            m: centre, `B C H W`.
            r: deviation.
            start: where a chain starts; at the centre by default.
            scale: of the level, for a published step.
            share: factor on the step.
        """
        if self.exact:
            return likelihood_draw(self.measurement, m, r, self.draw)
        x, leaps = m if start is None else start, self.chain.leaps if self.chain.kernel == "HMC" else 1
        growth = m.new_zeros(len(m), 1, 1, 1) if self._growth is None else self._growth
        if self.chain.rate:
            h = m.new_full((len(m), 1, 1, 1), share * self.chain.rate / scale**2)
        else:
            h = share * self.chain.size / (self._curvature(x) + 1 / r**2)

        def energy(x: Tensor) -> tuple[Tensor, Tensor]:
            log_p, gradient = evidence(self.measurement, x)
            return ((x - m) ** 2).flatten(1).sum(1) / (2 * r**2) - log_p, (x - m) / r**2 - gradient

        u, gradient = energy(x)
        count, chances = math.ceil(self.chain.steps / leaps), []
        for k in range(count):
            checkpoint(k / count)
            p, e = self.draw.normal(x), (2 * h).sqrt() * growth.exp()
            if leaps > 1:  # some directions would come back to where they were
                e = e * (0.8 + 0.4 * _beside(self._uniform(u)))
            ahead = hamiltonian_leaps(energy, x, gradient, p, e, leaps)
            if self.chain.kernel == "Langevin":
                x, u, gradient, _ = ahead
                continue
            change = u - ahead[1] + (p.square() - ahead[3].square()).flatten(1).sum(1) / 2
            chances.append(change.nan_to_num(-torch.inf, posinf=0.0).clamp(max=0).exp())
            yes = self._uniform(u) < chances[-1]
            x, gradient = torch.where(_beside(yes), ahead[0], x), torch.where(_beside(yes), ahead[2], gradient)
            u = torch.where(yes, ahead[1], u)
        if chances:
            self.taken.append(torch.stack(chances).mean(0))
            excess = self.taken[-1] - WANTED[self.chain.kernel]
            self._growth = growth + len(self.taken) ** -0.5 * _beside(excess)
        return x

    def note(self, record: dict[str, Any]) -> None:
        """Into a run's record: `acceptance`, the mean chance of a step over the later half of the turns."""
        if self.taken:
            record["acceptance"] = torch.stack(self.taken[len(self.taken) // 2 :]).mean().item()

    def _uniform(self, like: Tensor) -> Tensor:
        return self.draw.uniform(len(like) // len(self.draw.samples)).flatten().to(like)


def _beside(one: Tensor) -> Tensor:
    return one.reshape(-1, 1, 1, 1)


class Curvature:
    """norm of the Hessian of -log p(y given x) near x, per sample, `B 1 1 1`; asked again it goes on where it was."""

    def __init__(self, measurement: Measurement, draw: Streams):
        self.measurement, self.draw = measurement, draw
        self._direction: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        rounds = 10 if self._direction is None else 2
        v = self.draw.of("curvature").normal(x) if self._direction is None else self._direction
        here, far = evidence(self.measurement, x)[1], APART * x[0].numel() ** 0.5
        for k in range(rounds):
            checkpoint(k / rounds)
            step = far * v / sample_norm(v)
            v = (here - evidence(self.measurement, x + step)[1]) / far
        self._direction = v
        return sample_norm(v)
