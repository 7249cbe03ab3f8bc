"""The mixture of MCGDiff (Cardoso et al. 2023, https://arxiv.org/abs/2308.07983), its posterior and its levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.level import Level
from ..measurement.measurement import Measurement
from ..measurement.noise import GaussianNoise
from ..operators.dense import Dense


@dataclass
class Problem:
    """sum_k w_k N(m_k, I) and y = A x + sigma_y z.

    Args:
        means: `K d`.
        weights: `K`.
        measurement: of one draw.
    """

    means: Tensor
    weights: Tensor
    measurement: Measurement

    @classmethod
    def random(cls, dx: int, dy: int, seed: int) -> Problem:
        g = torch.Generator().manual_seed(seed)
        grid = torch.tensor([(-8.0 * i, -8.0 * j) for i in range(-2, 3) for j in range(-2, 3)])
        means = grid.repeat(1, dx // 2)
        weights = torch.randn(25, generator=g) ** 2
        weights = weights / weights.sum()
        u, _, vh = torch.linalg.svd(torch.randn(dy, dx, generator=g), full_matrices=False)
        d = torch.rand(dy, generator=g).sort(descending=True).values
        matrix, sigma = u @ torch.diag(d) @ vh, (torch.rand(1, generator=g) * d.max()).item()
        truth = means[torch.multinomial(weights, 1, generator=g)] + torch.randn(1, dx, generator=g)
        y = truth @ matrix.T + sigma * torch.randn(1, dy, generator=g)
        return cls(means, weights, Measurement(Dense(matrix, (dx, 1, 1)), y, GaussianNoise(sigma)))

    def denoiser(self, x_t: Tensor, level: Level) -> Tensor:
        """E[x_0|x_t]: every component has the covariance (alpha^2 + sigma^2) I at x_t."""
        return self._denoised(x_t, level)[0]

    def linearise(self, x_t: Tensor, level: Level) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """E[x_0|x_t] and v to J v: J = (alpha / sigma^2) Cov[x_0|x_t] is symmetric."""
        x0, shares = self._denoised(x_t, level)
        total = level.alpha**2 + level.sigma**2
        means = (level.sigma**2 / total) * self.means

        def product(v: Tensor) -> Tensor:
            flat = v.flatten(1)
            along = flat @ means.T
            between = (shares * (along - (shares * along).sum(1, keepdim=True))) @ means
            return (level.alpha / total * flat + level.alpha / level.sigma**2 * between).reshape(v.shape)

        return x0, product

    def _denoised(self, x_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """x0_hat, and how much each component has to say in it."""
        x, total = x_t.flatten(1), level.alpha**2 + level.sigma**2
        distances = torch.cdist(x, level.alpha * self.means) ** 2
        shares = (self.weights.log() - distances / (2 * total)).softmax(1)
        centre, gain = shares @ self.means, level.alpha / total
        return (centre + gain * (x - level.alpha * centre)).reshape(x_t.shape), shares

    def spanned(self) -> tuple[Problem, Tensor]:
        """The problem in the span of the centres and of the rows of A, and one direction more; and its basis, `d k`.

        The methods are equivariant under rotations, and all other directions are like that last one: what a method
        makes of the problem is the same in law, at a hundredth of the cost.
        """
        matrix = self.measurement.operator.matrix
        size = 3 + len(matrix)
        columns = torch.cat([self.means.T, matrix.T, torch.ones(len(self.means.T), 1)], 1).double()
        columns[::2, -1] *= torch.linspace(1, 2, len(columns[::2]))  # of no structure
        u, values, _ = torch.linalg.svd(torch.cat([self.means.T, matrix.T], 1).double(), full_matrices=False)
        basis = u[:, : size - 1]
        extra = columns[:, -1:] - basis @ (basis.T @ columns[:, -1:])
        basis = torch.cat([basis, extra / extra.norm()], 1).float()
        measurement = self.measurement
        operator = Dense(matrix @ basis, (size, 1, 1))
        return Problem(self.means @ basis, self.weights, Measurement(operator, measurement.y, measurement.noise)), basis

    def posterior(self, count: int, seed: int) -> Tensor:
        """Exact draws, `count d`: a mixture of Gaussians with one covariance, diagonal in the singular directions."""
        g = torch.Generator().manual_seed(seed)
        operator, sigma = self.measurement.operator, self.measurement.noise.sigma
        s2 = operator.s**2
        y = operator.measurement_to_spectrum(self.measurement.y)
        centres = operator.to_spectrum(self.means)
        evidence = s2[: len(operator.u)] + sigma**2
        misfit = ((y - operator.s * centres)[:, : len(operator.u)] ** 2 / evidence).sum(1)
        weights = (self.weights.log() - misfit / 2).softmax(0)
        means = centres + operator.s / (s2 + sigma**2) * (y - operator.s * centres)
        deviation = (sigma**2 / (s2 + sigma**2)).sqrt()
        chosen = torch.multinomial(weights, count, replacement=True, generator=g)
        drawn = means[chosen] + deviation * torch.randn(count, len(s2), generator=g)
        return operator.from_spectrum(drawn, operator.shape).flatten(1)


def levels_of(problem: Problem, steps: int) -> list[Level]:
    """Of 1000 variance-preserving levels, steps + 1, the last without noise.

    As in the authors' published code: one each time that alpha has fallen by an even share of what it falls to 0.01,
    one for each measured direction, where the state is as noisy as the measurement; the rest evenly below alpha = 0.01.
    """
    betas = torch.linspace(0.02, 1e-4, 999, dtype=torch.float64)
    alpha = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)]).sqrt()
    operator, sigma = problem.measurement.operator, problem.measurement.noise.sigma
    s = operator.s[: len(operator.u), None].double()
    own = set(((sigma * alpha) ** 2 - (1 - alpha**2) * s**2).abs().argmin(1).tolist()) - {0}
    end = int((alpha < 0.01).nonzero()[0])
    fall = (1 - alpha[end]) / (steps - len(own))
    chosen = [0]
    for i in range(1, end):
        if alpha[chosen[-1]] - alpha[i] >= fall or i in own:
            chosen.append(i)
    chosen += torch.linspace(chosen[-1], 999, steps + 2 - len(chosen)).ceil().long().tolist()[1:]
    return [Level(a.item(), (1 - a * a).sqrt().item()) for a in alpha[chosen].flip(0)]
