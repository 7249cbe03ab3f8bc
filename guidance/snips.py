"""SNIPS (Kawar et al. 2021), https://arxiv.org/abs/2105.14951.

The noises of state and measurement are taken as correlated, so that in the singular directions of A = U diag(s) V^T
(exploding coordinates x_bar, sigma_bar, y_bar = U^T y / s, q = (s sigma_bar_t / sigma_y)^2) the likelihood is

    grad log p(y given x_t) = s (U^T y - s x_bar) / abs(sigma_y^2 - s^2 sigma_bar_t^2)

added to the prior's score where q < 1, and alone where q > 1. The paper follows it by Langevin steps of relative
length 1 - q, or 1 - 1/q, in each direction. Taken with those lengths it is the conditional denoiser

    x0_hat(y) = (1 - q) x0_hat + q y_bar   (q < 1),    y_bar   (q > 1),    x0_hat   (s = 0)

and the fresh noise of a step has variance (1 - q) or (1 - 1/q) times sigma_s^2, since y_bar carries the rest: that is
what we hand to DDIM, instead of hundreds of Langevin steps a level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.level import Level
from ..diffusion.state import Estimate, State, Step
from ..operators.spectral import pseudo_reciprocal
from .base import Guidance
from .ddnm import renoise


@dataclass(frozen=True)
class SNIPS(Guidance):
    """SNIPS's conditional score, with its own step lengths, as a conditional denoiser."""

    label = "SNIPS"
    needs = ("spectral",)
    whitens = True

    def _precision(self, s: Tensor, level: Level) -> Tensor:
        """q, infinite where the measurement is clean and 0 where there is none."""
        ratio = s * level.sigma_bar
        return torch.where(pseudo_reciprocal(s) == 0, 0.0, (ratio / self.measurement.noise.sigma) ** 2)

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        operator = self.measurement.operator
        s = operator.singular_values(x0)
        residual = operator.measurement_to_spectrum(self.measurement.residual(x0))
        share = self._precision(s, state.t).clamp_max(1) * pseudo_reciprocal(s)
        return Estimate(x0 + operator.from_spectrum(share * residual, tuple(x0.shape[1:])))

    def transition(self, x_s: Tensor, step: Step) -> Tensor:
        if step.s.sigma == 0:
            return x_s

        def left(s: Tensor) -> Tensor:
            q = self._precision(s, step.s)
            return step.s.sigma**2 * (1 - torch.minimum(q, 1 / q)).clamp_min(0)

        return renoise(x_s, step, self.measurement.operator, left)
