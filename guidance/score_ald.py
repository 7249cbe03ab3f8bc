"""Score-ALD (Jalal et al. 2021), https://arxiv.org/abs/2108.01368.

The likelihood is taken at the noisy state itself, as if its noise were more measurement noise:

    grad_{x_t} log p(y given x_t) ~ A^T (y - A x_t) / (sigma_y^2 + gamma_t^2)

written for exploding states (alpha = 1); others are x_t / alpha_t at noise sigma_bar = sigma_t / alpha_t. The paper
leaves gamma_t open. Its code fixes the gradient's length instead, to a multiple (`mse`) of the prior score's:

    grad = mse norm(s_t) A^T r / norm(A^T r)

with norms over the whole batch; ours are per sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from ..algebra.norms import sample_norm
from ..diffusion.state import Estimate, State
from .base import Guidance

GammaSchedule = Literal["sigma", "constant"]
GAMMA_SCHEDULES = get_args(GammaSchedule)


@dataclass(frozen=True)
class ScoreALD(Guidance):
    """The formula of the paper.

    Args:
        gamma: scale of gamma_t, >= 0. Below 1 the steps overshoot at high noise.
        schedule: gamma_t = gamma sigma_bar_t ("sigma"), or gamma itself in image units ("constant").
    """

    gamma: float = 1.0
    schedule: GammaSchedule = "sigma"

    label = "Score-ALD"
    needs = ("linear",)

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        if not state.t.inverse_alpha:  # nothing of the picture in the state
            return Estimate(x0)
        variance = (state.t.sigma * state.t.inverse_alpha) ** 2
        gamma2 = self.gamma**2 * (variance if self.schedule == "sigma" else 1.0)
        measurement = self.measurement
        residual = measurement.residual(state.x_t * state.t.inverse_alpha)
        return Estimate(x0 + variance * measurement.operator.adjoint(residual / (self.variance + gamma2)))


@dataclass(frozen=True)
class ScoreALDNormalised(Guidance):
    """The step of the paper's code.

    Args:
        mse: length of the likelihood's gradient in units of the prior score's.
    """

    mse: float = 1.0

    label = "Score-ALD (normalised)"
    needs = ("linear",)

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        if not state.t.inverse_alpha:  # nothing of the picture in the state
            return Estimate(x0)
        x_bar = state.x_t * state.t.inverse_alpha
        lifted = self.measurement.operator.adjoint(self.measurement.residual(x_bar))
        return Estimate(x0 + self.mse * sample_norm(state.x0 - x_bar) / sample_norm(lifted) * lifted)
