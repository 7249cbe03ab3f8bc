"""Pseudoinverse-guided diffusion, Pi-GDM (Song et al. 2023), https://openreview.net/forum?id=9_gsMA8MRKQ.

x_0 given x_t is taken as N(x0_hat, r_t^2 I), which for a linear A makes y given x_t Gaussian:

    grad_{x_t} log p(y given x_t) ~ J^T A^T (r_t^2 A A^T + sigma_y^2 I)^-1 (y - A x0_hat)

r_t^2 = c sigma_t^2 / (alpha_t^2 c + sigma_t^2) is the variance of a white prior of variance c, for which all of this
is exact; the paper has c = 1, that is sigma^2 / (1 + sigma^2) for exploding states. Where A is not linear and has a
generalised inverse (JPEG), the noiseless form g = J^T (A^+(y) - A^+(A(x0_hat))) stands in for A^T (A A^T)^-1 r, noise
or not.

A learned J may be far larger than r_t^2 says: brightness varies by more than white noise of any sensible c. The step d
then overshoots, each one more than the last. So it is cut at s d where A s d has LIMIT times its best length,

    s = min(1, LIMIT (y - A x0_hat)^T A d / norm(A d)^2),  and 0 where that is negative,

which leaves at most LIMIT - 1 times the residual, for the next steps to correct. A white prior's s is 1.

As published (Algorithm 1) the step is DDIM's with the unguided x0_hat and adds r_t^2 grad, weighted by alpha_t of
variance-preserving states: x_s += alpha_t g, g = J^T A^T (A A^T + (sigma_y / r_t)^2 I)^-1 (y - A x0_hat).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..algebra.refusal import Refusal
from ..diffusion.state import Estimate, State
from ..operators.base import Operator
from .base import Guidance

#: how many times too long a step may be, for models that know their pictures. `bench frontier --train`, 20 / 50 calls
#: with 2, 3 and 4: digits .057 / .058, .053 / .053, .050 / .051; mixtures of 8 .41 / .35, .39 / .31, .45 / .30. Less
#: is safer, see `reach`
LIMIT = 4.0


@dataclass(frozen=True)
class PiGDM(Guidance):
    """Pi-GDM as a conditional denoiser.

    Args:
        deviation: sqrt(c), standard deviation of the pictures in the model's unit (pixel models: [-1, 1]).
        jacobian: False replaces J by the white prior's, which leaves x0_hat + r_t^2 A^T (...)^-1 r.
        limit: how many times too long a step may be, > 0.
    """

    deviation: float = 1.0
    jacobian: bool = True
    limit: float = LIMIT

    label = "Pi-GDM"
    whitens = True

    @property
    def latent(self) -> str:
        if not self.jacobian:
            return "pictures"  # a projection
        return "linearised" if self.measurement.operator.linear else "composed"

    def validate(self) -> None:
        super().validate()
        operator = self.measurement.operator
        if not operator.linear and type(operator).pinv is Operator.pinv:
            raise Refusal(f"{self.label} needs an inverse, which {operator.label} does not have; choose DPS instead.")

    def lift(self, state: State) -> Tensor:
        """A^T (A A^T + (sigma_y / r_t)^2 I)^-1 (y - A x0_hat), or A^+(y) - A^+(A(x0_hat))."""
        operator, y = self.measurement.operator, self.measurement.y
        if not operator.linear:
            return operator.pinv(y) - operator.pinv(operator.forward(state.x0))
        if not self.measurement.noisy:
            return operator.pinv(self.measurement.residual(state.x0))
        ratio = self.measurement.noise.sigma**2 / state.white_variance(self.deviation)
        return operator.prox(state.x0, y, ratio) - state.x0

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        lifted = self.lift(state)
        if self.jacobian:
            lifted = state.covariance(lifted, last=True) / state.white_variance(self.deviation)
            lifted = self._cut(lifted, state) if self.measurement.operator.linear else lifted
        return Estimate(x0 + lifted)

    def _cut(self, step: Tensor, state: State) -> Tensor:
        seen, residual = self.measurement.operator.forward(step), self.measurement.residual(state.x0)
        along, length = ((seen * each).flatten(1).sum(1) for each in (residual, seen))
        share = (self.limit * along / length.clamp_min(1e-30)).clamp(0, 1)
        return share.view(-1, *[1] * (step.ndim - 1)) * step


@dataclass(frozen=True)
class PiGDMPublished(PiGDM):
    """Pi-GDM as published, with its after-step weight."""

    label = "Pi-GDM (published)"

    @property
    def latent(self) -> str:
        return "linearised" if self.measurement.operator.linear else "composed"

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        return Estimate(x0, state.t.alpha * state.pull_back(self.lift(state), self.jacobian, self.deviation, True))
