"""Diffusion posterior sampling (Chung et al. 2023), https://arxiv.org/abs/2209.14687.

The likelihood is taken at the denoised prediction, p(y given x_t) ~ p(y given x0_hat), with J = d x0_hat / d x_t and
r = y - A(x0_hat):

    Gaussian form     grad_{x_t} log p(y given x_t) ~ J^T A^T r / sigma_y^2
    published recipe  after the step  x_s -= zeta grad_{x_t} norm(r)      (Algorithm 1, zeta_i = zeta / norm(r))

The recipe is written for variance-preserving states and images in [-1, 1]. Both are kept: the shift is handed to
the sampler in variance-preserving coordinates, and the factors below turn images in [0, 1] into the paper's.
The norm is per sample; the official code takes it over the whole batch, which ties samples to their neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Guidance
from .state import Estimate, State


@dataclass(frozen=True)
class DPS(Guidance):
    """DPS as published.

    Args:
        zeta: step size of the recipe. The paper uses 0.3 to 1 with 1000 steps; with n steps about 1000 / n
            times as much does the same work.
    """

    zeta: float = 1.0

    label = "DPS"
    jacobian = True

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        residual = self.measurement.residual(state.x0)
        norm = residual.flatten(1).norm(dim=1).clamp_min(torch.finfo(residual.dtype).tiny)
        unit = residual / norm.reshape(-1, *[1] * (residual.ndim - 1))
        # one unit of an image in [0, 1] is two of the paper's [-1, 1]; one unit of x_t is scale of the model's
        paper = 2 / state.t.scale**2
        ascent = state.vjp(self.measurement.operator.vjp(state.x0, unit))
        return Estimate(x0, self.zeta * paper * state.t.norm * ascent)


@dataclass(frozen=True)
class DPSGaussian(Guidance):
    """DPS with the Gaussian likelihood's own factor 1 / sigma_y^2, as a conditional denoiser.

    Args:
        strength: multiplies the gradient; 1 is the formula.
    """

    strength: float = 1.0

    label = "DPS (Gaussian form)"
    jacobian = True
    needs = ("noisy",)

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        residual = self.measurement.residual(state.x0)
        score = self.measurement.noise.score(residual)
        gradient = state.vjp(self.measurement.operator.vjp(state.x0, score))
        return Estimate(x0 + state.tilt(self.strength * gradient))
