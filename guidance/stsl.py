"""A second-order Tweedie sampler, after STSL (Rout et al. 2023), https://arxiv.org/abs/2312.00852.

DPS puts all of p(x_0 given x_t) at its mean. To second order the mean log-likelihood also falls with the spread around
it, of which STSL takes the trace, as for a measurement of everything:

    E[log p(y given x_0) given x_t] ~ log p(y given x0_hat) - c Tr Cov[x_0|x_t] / 2
    Cov[x_0|x_t]                    = (sigma_t^2 / alpha_t) J,    J = d x0_hat / d x_t

so the state also moves to where the prior is surer. The trace is Hutchinson's, its gradient a difference of two
vector-Jacobian products at states a little apart (delta = 0.1 sigma_t; by symmetry the error is of order delta^2):

    x_s -= zeta grad norm(y - A x0_hat) + gamma grad Tr Cov[x_0|x_t]
    grad Tr Cov ~ (sigma_t^2 / alpha_t) (J(x_t + delta e)^T e - J(x_t)^T e) / delta,    e ~ N(0, I)

That is the idea of the paper in this project's notation. Its several such steps at one noise level are the time travel
of the Guided DDIM sampler here, and its constants are not claimed. For Gaussian priors the spread does not depend on
x_t, and this is DPS. A step costs two forward and two backward passes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..diffusion.state import Estimate, State
from .base import Guidance
from .dps import norm_ascent

DELTA = 0.1


@dataclass(frozen=True)
class STSL(Guidance):
    """DPS that also seeks states where the prior is sure.

    Args:
        zeta: step size, as in `DPS`.
        gamma: weight of the spread, 1 / (the model's unit)^2; 0 is DPS.
        seed: of the probes, which differ from step to step and from sample to sample.
    """

    zeta: float = 1.0
    gamma: float = 0.02
    seed: int = 0

    label = "STSL"
    jacobian = True

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        pull = self.zeta * state.published(norm_ascent(self, state.x0))
        if self.gamma == 0:
            return Estimate(x0, state.vjp(pull, last=True))
        probe = state.draw.of(f"STSL {self.seed}").normal(x0)
        delta = DELTA * state.t.sigma
        spread = state.t.vp_norm * self.gamma / delta * state.tweedie(probe)
        ascent = state.vjp(pull + spread, last=True)
        _, vjp = state.prior.linearise(state.x_t + delta * probe, state.t)
        return Estimate(x0, ascent - vjp(spread, last=True))
