"""DiffPIR (Zhu et al. 2023), https://arxiv.org/abs/2305.08995.

The prediction is pulled to the measurement by a proximal step (eq. 12b), with sigma_bar_t = sigma_t / alpha_t:

    x0_hat(y) = argmin_x norm(y - A x)^2 + rho_t norm(x - x0_hat)^2,    rho_t = lambda sigma_y^2 / sigma_bar_t^2

That takes the error of x0_hat to have the variance sigma_bar_t^2, which grows without bound, where for pictures of
variance c it is r_t^2 (`State.white_variance`), and so lets the noise of y into directions that A hardly shows. Fresh
noise in each step washes it out again, deterministic samplers keep it. With c < infinity the variance is r_t^2:

    rho_t = lambda sigma_y^2 / r_t^2 = lambda sigma_y^2 (1 / sigma_bar_t^2 + 1 / c)

Its step is DDIM's with v = sqrt(zeta) sigma_s: choose that noise rule in the Guided DDIM sampler. At sigma_y = 0 the
limit rho to 0 is taken exactly, x0_hat + A^+ (y - A x0_hat). With `smooth` the correction is continued into what was
not measured, as in `ddnm`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..diffusion.state import Estimate, State
from ..measurement.smooth import continued
from .base import Guidance

#: standard deviation of photographs, in the unit of [-1, 1]
PHOTOS = 0.5


@dataclass(frozen=True)
class DiffPIR(Guidance):
    """The proximal data step of DiffPIR.

    Args:
        trust: the paper's lambda, how much the prior weighs against the data; 1 weighs a white prior rightly,
            larger is smoother, smaller follows the measurement (and its noise) more closely.
        deviation: sqrt(c), standard deviation of the pictures in the model's unit; infinity is the paper's formula.
        smooth: whether the correction is continued into what was not measured.
    """

    trust: float = 1.0
    deviation: float = math.inf
    smooth: bool = False

    label = "DiffPIR"
    latent = "pictures"
    needs = ("linear",)
    whitens = True

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        operator = self.measurement.operator
        if not self.measurement.noisy:
            corrected = x0 + operator.pinv(self.measurement.residual(x0))
        else:
            precision = (state.t.alpha / state.t.sigma) ** 2 + (state.t.scale / self.deviation) ** 2
            rho = self.trust * self.measurement.noise.sigma**2 * precision
            corrected = operator.prox(x0, self.measurement.y, max(rho, 1e-8))
        if self.smooth:
            corrected = x0 + continued(operator, corrected - x0, x0, state.t.sigma_bar)
        return Estimate(corrected)
