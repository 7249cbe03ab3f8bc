"""Denoising diffusion null-space model (Wang et al. 2023), https://arxiv.org/abs/2212.00490.

The range-space part of the prediction is replaced by what was measured (eq. 13):

    x0_hat(y) = x0_hat + A^+ (y - A x0_hat)

which is consistent with y exactly. That is DDNM, for sigma_y = 0. With noise, DDNM+ (eq. 17-19) scales the
correction in each singular direction so that the measurement's noise never exceeds the noise that the next state
may hold, and injects that much less. For a step to (alpha_s, sigma_s) and singular values s_i of A:

    lambda_i  = min(1, s_i sigma_s / (alpha_s sigma_y))
    x0_hat(y) = x0_hat + V lambda V^T A^+ (y - A x0_hat)
    Phi_i     = sigma_s^2 - (alpha_s lambda_i sigma_y / s_i)^2

The paper takes the ancestral step's own variance as the budget; its code takes all of sigma_s^2, which works for any
eta. We follow the code: eps and z shrink together by sqrt(Phi_i) / sigma_s.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..operators.errors import Refusal
from ..operators.spectral import SpectralOperator, pseudo_reciprocal
from .base import Guidance
from .state import Estimate, Level, State, Step


@dataclass(frozen=True)
class DDNM(Guidance):
    """DDNM where the measurement's sigma_y is 0, DDNM+ where it is not."""

    label = "DDNM"

    needs = ("linear", "Gaussian")

    def validate(self) -> None:
        super().validate()
        if self.noisy and not isinstance(self.measurement.operator, SpectralOperator):
            raise Refusal(
                f"DDNM with noise needs singular values, which {self.measurement.operator.label} does not have; "
                "choose DiffPIR, or set the noise level to 0."
            )

    def _share(self, s: Tensor, level: Level) -> Tensor:
        """lambda_i / s_i: how much of the residual's coefficient enters the estimate."""
        return pseudo_reciprocal(s).clamp(max=level.sigma / (max(level.alpha, 1e-6) * self.measurement.noise.sigma))

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        operator, residual = self.measurement.operator, self.measurement.residual(x0)
        if not self.noisy:
            return Estimate(x0 + operator.pinv(residual))
        share = self._share(operator.singular_values(x0), state.s or state.t)
        return Estimate(
            x0 + operator.from_spectrum(share * operator.measurement_to_spectrum(residual), tuple(x0.shape[1:]))
        )

    def transition(self, x_s: Tensor, step: Step) -> Tensor:
        if not self.noisy or step.s.sigma == 0:
            return x_s
        ratio = step.s.alpha * self.measurement.noise.sigma / step.s.sigma
        mean = step.s.alpha * step.x0
        return mean + self.measurement.operator.filter(
            x_s - mean, lambda s: (1 - (ratio * self._share(s, step.s)) ** 2).clamp_min(0).sqrt()
        )
