"""Loss-guided diffusion with Monte Carlo, LGD-MC (Song et al. 2023), https://proceedings.mlr.press/v202/song23k.html.

DPS averages the likelihood over nothing; LGD-MC averages it over draws x^i ~ N(x0_hat, r_t^2 I) around the prediction:

    log p(y given x_t) ~ log (1/n) sum_i p(y given x^i)
    grad_{x_t}         = J^T sum_i w_i grad log p(y given x^i),    w_i = p(y given x^i) / sum_j p(y given x^j)

with r_t^2 as in Pi-GDM. The step has DPS's length: for one draw with r_t = 0 this is DPS as published, so

    x_s += zeta J^T sum_i w_i A^T W^2 r_i / norm(W sum_i w_i r_i),    r_i = y - A(x^i),

W being the precision of DPS where the noise differs between the entries of y, else I.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.norms import sample_norm
from ..diffusion.state import Estimate, State
from .base import Guidance
from .dps import precision


@dataclass(frozen=True)
class LGDMC(Guidance):
    """DPS with a likelihood averaged over draws.

    Args:
        zeta: step size, as in `DPS`.
        draws: n.
        deviation: standard deviation of the pictures in the model's unit; sets r_t.
        seed: of the draws, which differ from step to step and from sample to sample.
        jacobian: as in `DPS`.
    """

    zeta: float = 1.0
    draws: int = 4
    deviation: float = 1.0
    seed: int = 0
    jacobian: bool = True

    label = "LGD-MC"
    factor = "zeta"
    needs = ("noisy",)

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        measurement, spread = self.measurement, state.white_variance(self.deviation) ** 0.5
        weight = precision(measurement)
        stream = state.draw.of(f"LGD-MC {self.seed}")
        log_sum, mean, lifted = x0.new_full((), -math.inf), 0.0, 0.0
        for _ in range(self.draws):  # running means, so that one draw is held at a time
            y, pull_back = measurement.operator.linearise(state.x0 + spread * stream.normal(x0))
            residual = measurement.y - y
            log = measurement.noise.log_likelihood(residual, measurement.y)
            log_sum = torch.logaddexp(log_sum, log)
            share = (log - log_sum).exp()
            mean = mean + share.reshape(-1, *[1] * (residual.ndim - 1)) * (residual - mean)
            lifted = lifted + share.reshape(-1, 1, 1, 1) * (pull_back(weight**2 * residual) - lifted)
        ascent = state.pull_back(lifted / sample_norm(weight * mean).reshape(-1, 1, 1, 1), self.jacobian, last=True)
        return Estimate(x0, self.zeta * state.published(ascent))
