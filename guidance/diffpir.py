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

That is the mean of N(x0_hat, (r_t^2 / lambda) I) given y. With `draw` the answer is a draw of it instead, N(m, P^-1)
with P = A^T A / sigma_y^2 + (lambda / r_t^2) I, exactly, by solving the same system for n, n' ~ N(0, I):

    m + argmin_k norm(sigma_y n' - A k)^2 + rho_t norm(k - (r_t / sqrt(lambda)) n)^2

So four methods of the field are this one, with r_t^2 / lambda, zeta, the start and the answer:

    DiffPIR   sigma_bar_t^2 / lambda               zeta 0.3 .. 1    noise                  mean
    FLOWER    r_t^2 with c = 1                     zeta 1           noise                  mean or draw
              (Pourya et al. 2026, https://arxiv.org/abs/2509.26287)
    LATINO    r_t^2 delta with c = 1, 4 to 8 steps of a distilled model
                                                   zeta 1           E(A^T y), noised       mean
              (Spagnoletti et al. 2025, https://arxiv.org/abs/2503.12615)
    DDSMC     a variance rho_t^2 of its own        zeta 1           noise                  draw, of particles
              (Kelvinius et al. 2025, https://arxiv.org/abs/2502.06379)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..diffusion.level import Level
from ..diffusion.state import Estimate, State
from ..measurement.smooth import kriged
from .base import Guidance

#: standard deviation of photographs, in the unit of [-1, 1]
PHOTOS = 0.5


def error_precision(t: Level, deviation: float = math.inf) -> float:
    """1 / r_t^2 = 1 / sigma_bar_t^2 + 1 / c in the state's unit, never 0. deviation: sqrt(c), the model's unit."""
    return max((t.alpha / t.sigma) ** 2 + (t.scale / deviation) ** 2, 1e-8)


@dataclass(frozen=True)
class DiffPIR(Guidance):
    """The proximal data step of DiffPIR.

    Args:
        trust: the paper's lambda, how much the prior weighs against the data; 1 weighs a white prior rightly,
            larger is smoother, smaller follows the measurement (and its noise) more closely.
        deviation: sqrt(c), standard deviation of the pictures in the model's unit; infinity is the paper's formula.
        smooth: whether the correction is continued into what was not measured.
        draw: whether the answer is a draw instead of the mean.
    """

    trust: float = 1.0
    deviation: float = math.inf
    smooth: bool = False
    draw: bool = False

    label = "DiffPIR"
    latent = "pictures"
    needs = ("linear",)
    whitens = True

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        operator, y, sigma = self.measurement.operator, self.measurement.y, self.measurement.noise.sigma
        precision = self.trust * error_precision(state.t, self.deviation)
        if self.measurement.noisy:
            rho = max(sigma**2 * precision, 1e-8)
            corrected = operator.prox(x0, y, rho)
        else:
            corrected = x0 + operator.pinv(self.measurement.residual(x0))
        if self.smooth:
            corrected = x0 + kriged(operator, corrected - x0, x0, state.t.sigma_bar)
        if self.draw:
            n = precision**-0.5 * state.draw.normal(x0)
            if self.measurement.noisy:
                seen = y.expand(len(x0), *y.shape[1:])
                corrected = corrected + operator.prox(n, sigma * state.draw.normal(seen), rho)
            else:
                corrected = corrected + n - operator.pinv(operator.forward(n))
        return Estimate(corrected)
