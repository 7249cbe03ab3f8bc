"""Diffusion posterior sampling (Chung et al. 2023), https://arxiv.org/abs/2209.14687.

The likelihood is taken at the denoised prediction, p(y given x_t) ~ p(y given x0_hat), with J = d x0_hat / d x_t and
r = y - A(x0_hat):

    Gaussian form     grad_{x_t} log p(y given x_t) ~ J^T A^T r / sigma_y^2
    published recipe  after the step  x_s -= zeta grad_{x_t} norm(r)      (Algorithm 1, zeta_i = zeta / norm(r))

The recipe is written for variance-preserving states and images in [-1, 1]. Both are kept: the shift is handed to
the sampler in variance-preserving coordinates, and `State.published` turns images in [0, 1] into the paper's.
The norm is per sample; the official code takes it over the whole batch, which ties samples to their neighbours.

Where the noise differs between the entries of y (Poisson noise, a noise map) the norm is weighted by its precision,
as the paper does for Poisson noise: norm(W r) with W = diag(1 / deviation), scaled so that equal noise is W = I.
(For Poisson noise the official code divides by y instead of sqrt y; we follow the paper.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.norms import sample_norm
from ..diffusion.state import Estimate, State
from ..measurement.measurement import Measurement
from ..measurement.noise import ROUNDING
from .base import Guidance


def precision(measurement: Measurement) -> float | Tensor:
    """W = diag(1 / deviation) scaled so that equal noise is W = I, a number or broadcastable against y.

    Standard deviations below the rounding of 8 bits count as that.
    """
    deviation = torch.as_tensor(measurement.noise.deviation(measurement.y))
    if deviation.numel() == 1:
        return 1.0
    weight = 1 / deviation.clamp_min(ROUNDING)
    weight = weight.reshape(*[1] * (measurement.y.ndim - weight.ndim), *weight.shape)
    return weight * (weight[0].numel() ** 0.5 / sample_norm(weight))


def norm_ascent(guidance: Guidance, x0: Tensor) -> Tensor:
    """-grad_{x_0} norm(W (y - A(x_0))), `B C H W`."""
    measurement = guidance.measurement
    weight = precision(measurement)
    y, pull_back = measurement.operator.linearise(x0)
    whitened = weight * (measurement.y - y)
    return pull_back(weight * whitened / sample_norm(whitened))


@dataclass(frozen=True)
class DPS(Guidance):
    """DPS as published.

    Args:
        zeta: step size of the recipe. The paper uses 0.3 to 1 with 1000 steps; with n steps about 1000 / n
            times as much does the same work.
        jacobian: False replaces J by a white prior's (`State.pull_back`): no backward pass through the network.
    """

    zeta: float = 1.0
    jacobian: bool = True

    label = "DPS"
    factor = "zeta"

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        ascent = state.pull_back(norm_ascent(self, state.x0), self.jacobian, last=True)
        return Estimate(x0, self.zeta * state.published(ascent))


@dataclass(frozen=True)
class DPSGaussian(Guidance):
    """DPS with the likelihood's own gradient, as a conditional denoiser.

    Args:
        strength: multiplies the gradient; 1 is the formula.
        jacobian: as in `DPS`.
    """

    strength: float = 1.0
    jacobian: bool = True

    label = "DPS (Gaussian form)"
    factor = "strength"
    needs = ("noisy",)

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        measurement = self.measurement
        y, pull_back = measurement.operator.linearise(state.x0)
        gradient = pull_back(measurement.noise.score(measurement.y - y, measurement.y))
        return Estimate(x0 + self.strength * state.covariance(gradient, self.jacobian, last=True))
