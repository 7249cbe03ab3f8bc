"""Denoising diffusion null-space model (Wang et al. 2023), https://arxiv.org/abs/2212.00490.

The range-space part of the prediction is replaced by what was measured (eq. 13):

    x0_hat(y) = x0_hat + A^+ (y - A x0_hat)

which is consistent with y exactly. That is DDNM, for sigma_y = 0. With noise, DDNM+ (eq. 17-19) keeps the noise of
the next state at sigma_s, of which the measurement brings a part. For singular values s_i of A:

    lambda_i   = min(1, s_i sigma_s / (alpha_s sigma_y))
    x0_hat(y)  = x0_hat + V lambda V^T A^+ (y - A x0_hat)
    Phi_i      = sigma_s^2 - (alpha_s lambda_i sigma_y / s_i)^2,    s_i > 0
    x_s        = alpha_s x0_hat(y) + V sqrt(Phi) z    where s_i > 0, and DDIM's own step where s_i = 0

Any generalised inverse in the place of A^+ is as consistent with y. With `smooth` (ours) the correction is continued
into pixels that were not measured, see `measurement.smooth.kriged`.

A measurement that is clean but for its rounding, tau, has sigma_y = tau (`Measurement.resolved`), with the soft lambda
s_i^2 / (s_i^2 + tau^2 / r_t^2), r_t^2 the variance of x0_hat's error, which is one proximal step for any operator, and
with the sampler's own noise: what y brings of it is far below a level of grey. The hard lambda lets noise of y as large
as sigma_s into every direction that A hardly shows, right only in a sampler that takes as much away, as Phi does.

The paper takes the ancestral step's variance as the budget; we follow its code (eq. 51 at eta = 0), whose budget is
all of sigma_s^2, which works for any sampler. Other samplers than the Guided DDIM use x0_hat(y) only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from ..diffusion.level import Level
from ..diffusion.state import Estimate, State, Step
from ..measurement.smooth import kriged
from ..operators.spectral import SpectralOperator, pseudo_reciprocal
from .base import Guidance
from .diffpir import PHOTOS, error_precision


def renoise(x_s: Tensor, step: Step, operator: SpectralOperator, variance: Callable[[Tensor], Tensor]) -> Tensor:
    """x_s with fresh noise of the given variance(s) in the directions that are measured, the others as they are."""
    s = operator.singular_values(x_s)
    change, noise = (operator.to_spectrum(x) for x in (step.s.alpha * step.x0 - x_s, step.draw(x_s)))
    fresh = torch.where(pseudo_reciprocal(s) == 0, 0.0, change + variance(s).sqrt() * noise)
    return x_s + operator.from_spectrum(fresh, tuple(x_s.shape[1:]))


@dataclass(frozen=True)
class DDNM(Guidance):
    """DDNM where the measurement's sigma_y is 0, DDNM+ where it is not.

    Args:
        smooth: whether the correction is continued into what was not measured.
    """

    smooth: bool = False

    label = "DDNM"
    latent = "pictures"
    needs = ("linear",)
    whitens = True

    def validate(self) -> None:
        super().validate()
        if not self.measurement.clean and not isinstance(self.measurement.operator, SpectralOperator):
            raise Refusal(
                f"DDNM with noise needs singular values, which {self.measurement.operator.label} does not have; "
                "choose DiffPIR, or set the noise level to 0."
            )

    def _share(self, s: Tensor, level: Level) -> Tensor:
        """lambda_i / s_i: how much of the residual's coefficient enters the estimate."""
        return pseudo_reciprocal(s).clamp(max=level.sigma_bar / self.measurement.noise.sigma)

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        operator, residual = self.measurement.operator, self.measurement.residual(x0)
        if not self.measurement.noisy:
            correction = operator.pinv(residual)
        elif self.measurement.clean:
            rho = self.measurement.noise.sigma**2 * error_precision(state.t, PHOTOS)
            correction = operator.prox(x0, self.measurement.y, rho) - x0
        else:
            share = self._share(operator.singular_values(x0), state.s or state.t)
            spectrum = share * operator.measurement_to_spectrum(residual)
            correction = operator.from_spectrum(spectrum, tuple(x0.shape[1:]))
        if self.smooth:
            correction = kriged(operator, correction, x0, state.t.sigma_bar)
        return Estimate(x0 + correction)

    def transition(self, x_s: Tensor, step: Step) -> Tensor:
        if not self.measurement.noisy or self.measurement.clean or step.s.sigma == 0:
            return x_s
        carried = step.s.alpha * self.measurement.noise.sigma

        def left(s: Tensor) -> Tensor:
            return (step.s.sigma**2 - (carried * self._share(s, step.s)) ** 2).clamp_min(0)

        return renoise(x_s, step, self.measurement.operator, left)
