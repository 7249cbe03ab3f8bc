"""DiffPIR (Zhu et al. 2023), https://arxiv.org/abs/2305.08995.

The prediction is pulled to the measurement by a proximal step (eq. 12b), with sigma_bar_t = sigma_t / alpha_t:

    x0_hat(y) = argmin_x norm(y - A x)^2 + rho_t norm(x - x0_hat)^2,    rho_t = lambda sigma_y^2 / sigma_bar_t^2

Its step is DDIM's with v = sqrt(zeta) sigma_s: choose that noise rule in the Guided DDIM sampler. At sigma_y = 0 the
limit rho to 0 is taken exactly, x0_hat + A^+ (y - A x0_hat).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .base import Guidance
from .state import Estimate, State


@dataclass(frozen=True)
class DiffPIR(Guidance):
    """The proximal data step of DiffPIR.

    Args:
        trust: the paper's lambda, how much the prior weighs against the data; 1 weighs a white prior rightly,
            larger is smoother, smaller follows the measurement (and its noise) more closely.
    """

    trust: float = 1.0

    label = "DiffPIR"
    latent = "pictures"
    needs = ("linear",)
    whitens = True

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        operator = self.measurement.operator
        if not self.measurement.noisy:
            return Estimate(x0 + operator.pinv(self.measurement.residual(x0)))
        rho = self.trust * (self.measurement.noise.sigma * state.t.alpha / state.t.sigma) ** 2
        return Estimate(operator.prox(x0, self.measurement.y, max(rho, 1e-8)))
