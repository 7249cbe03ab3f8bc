"""Denoising diffusion restoration models, DDRM (Kawar et al. 2022), https://arxiv.org/abs/2201.11793.

The step is made in the singular directions of A = U diag(s) V^T, each by how noisy the state is beside the measurement
(eq. 7 and 8). In exploding coordinates x_bar = x / alpha, sigma_bar = sigma / alpha, with y_bar = U^T y / s,
tau = sigma_y / s the noise of y_bar, and all of x0_hat, eps, z in the basis V:

    s = 0            x_bar_s = x0_hat + sqrt(1 - eta^2) sigma_bar_s eps + eta sigma_bar_s z
    sigma_bar_s < tau  x_bar_s = x0_hat + sqrt(1 - eta^2) sigma_bar_s (y_bar - x0_hat) / tau + eta sigma_bar_s z
    else             x_bar_s = (1 - eta_b) x0_hat + eta_b y_bar + sqrt(sigma_bar_s^2 - eta_b^2 tau^2) z

The published code also starts from y_bar where the first level is noisier than it; at the first levels of a sampler
that difference is within the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.state import Step
from ..operators.spectral import pseudo_reciprocal
from .base import Guidance


@dataclass(frozen=True)
class DDRM(Guidance):
    """DDRM's step in place of the sampler's, whose own noise setting it ignores.

    Args:
        eta: share of fresh noise in what is not, or less well, measured, in [0, 1]; the paper uses 0.85.
        eta_b: trust in what is measured better than the state, in [0, 1]; the paper uses 1.
    """

    eta: float = 0.85
    eta_b: float = 1.0

    label = "DDRM"
    owns_transition = True
    needs = ("spectral",)
    whitens = True

    def transition(self, x_s: Tensor, step: Step) -> Tensor:
        operator, sigma = self.measurement.operator, step.s.sigma / step.s.alpha
        x0, eps, z = (operator.to_spectrum(x) for x in (step.x0, step.eps, step.draw(x_s)))
        s = operator.singular_values(x_s)
        inverse = pseudo_reciprocal(s)
        tau = self.measurement.noise.sigma * inverse
        pull = inverse * operator.measurement_to_spectrum(self.measurement.y) - x0

        predicted = sigma * math.sqrt(1 - self.eta**2)
        unseen = x0 + predicted * eps + self.eta * sigma * z
        worse = x0 + predicted * pull / tau.clamp_min(torch.finfo(tau.dtype).tiny) + self.eta * sigma * z
        better = x0 + self.eta_b * pull + (sigma**2 - (self.eta_b * tau) ** 2).clamp_min(0).sqrt() * z
        spectrum = torch.where(inverse == 0, unseen, torch.where(tau > sigma, worse, better))
        return step.s.alpha * operator.from_spectrum(spectrum, tuple(x_s.shape[1:]))
