"""Divide and conquer, DCPS (Janati et al. 2024), https://arxiv.org/abs/2403.11407.

The levels are cut into blocks. A block that ends at level l goes to its own posterior, with the potential
N(alpha_l y; A x_l, sigma_y^2): much simpler than one posterior from noise to the picture.

    at its start    x += (g / (1 + gamma norm(g))) gamma + sqrt(2 gamma) n,    a few tamed Langevin steps on
                    g = score + grad log p(y given E[x_l|x_t])
    each step       x_s ~ N(m, v), fitted to log p(y given E[x_l|x_s]) and to q(x_s given x_t, x0_hat(x_t))

with steps of one length along the gradient, see `fitted_steps`. The last step is the prior's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..algebra.norms import sample_norm
from ..diffusion.level import Level
from ..diffusion.run import Run
from ..measurement.measurement import Measurement
from .base import Sampler
from .fitted_steps import CLEAN, Normalised, bridge, fitted, guided_by, potential
from .likelihood_chain import with_noise


@dataclass(frozen=True)
class DCPS(Sampler):
    """1 + `iterations` model calls a step, `iterations` of them with a gradient, and `langevin` for each block.

    Args:
        blocks: >= 1.
        iterations: steps of the fit, >= 1.
        rate: their length over the whole picture, in the unit of variance-preserving states; the paper's 1.5 is for
            pictures of 256 x 256.
        langevin: steps at the start of each block.
        gamma: their size, in the square of that unit.
    """

    blocks: int = 3
    iterations: int = 2
    rate: float = 1.5
    langevin: int = 5
    gamma: float = 1e-3

    label = "DCPS"
    jacobian = True

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        measurement, normal = with_noise(run.measurement), run.draw.normal
        ends = sorted({round(run.steps * (k + 1) / self.blocks) for k in range(self.blocks)})
        block = -1
        for i, t, s in run.walk:
            end = next(k for k in ends if k > i)
            low = run.levels[end]
            if end != block:
                block = end
                for _ in range(self.langevin):
                    x = self._tamed(run, measurement, x, t, low)
            x0 = run.prior(x, t)
            run.report(i, x, x0, t)
            if not s.sigma:
                return s.alpha * x0
            a, b, v = bridge(t, CLEAN, s)

            def ascent(x_s: Tensor, s: Level = s, low: Level = low) -> Tensor:
                if s == low:
                    return potential(measurement, x_s, low)
                return guided_by(run.prior, measurement, x_s, s, low)[1]

            unit = s.vp_norm / s.scale
            x = fitted(ascent, a * x + b * x0, v, unit, self.iterations, Normalised(self.rate), normal)
        return x

    def _tamed(self, run: Run, measurement: Measurement, x: Tensor, t: Level, low: Level) -> Tensor:
        x0, g = guided_by(run.prior, measurement, x, t, low)
        unit = t.vp_norm / t.scale
        g = unit * (g + (t.alpha * x0 - x) / t.sigma**2)
        step = self.gamma / (1 + self.gamma * sample_norm(g))
        return x + unit * (step * g + (2 * self.gamma) ** 0.5 * run.draw.normal(x))
