"""Manifold preserving guided diffusion, MPGD (He et al. 2024), https://arxiv.org/abs/2311.16424.

A gradient step on the prediction itself, with no pass back through the network:

    x0_hat(y) = x0_hat - zeta / alpha_t grad_{x_0} norm(y - A(x0_hat))

with alpha_t of variance-preserving states, on pictures in [-1, 1], as in the paper's code (the paper writes c_t).
This is the form without an autoencoder. The norm is per sample.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .base import Guidance
from .dps import norm_ascent
from .state import Estimate, State


@dataclass(frozen=True)
class MPGD(Guidance):
    """A normalised gradient step on x0_hat.

    Args:
        zeta: length of the step; the code uses about 10 for blur and 0.3 for superresolution with 100 steps.
    """

    zeta: float = 10.0

    label = "MPGD"
    factor = "zeta"

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        if state.t.alpha < 1e-4:
            return Estimate(x0)
        # one unit of an image in [0, 1] is two of the paper's [-1, 1]; one unit of x_t is scale of the model's
        paper = 2 / state.t.scale**2
        return Estimate(x0 + self.zeta * paper * state.t.norm / state.t.alpha * norm_ascent(self, x0))
