"""Diffusion with spherical Gaussian constraint, DSG (Yang et al. 2024), https://arxiv.org/abs/2402.03201.

In high dimension the fresh noise v z of a step lies on a sphere of radius R = sqrt(n) v around the step's mean. The
guided step stays on that sphere and only turns towards the data:

    d* = -R g / norm(g),    g = grad_{x_t} norm(y - A(x0_hat))
    d  = v z + w (d* - v z),    x_s = mean + R d / norm(d)

Large steps without leaving the noise level. Without fresh noise (eta = 0, the last step) there is no sphere and the
step stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..algebra.norms import sample_norm
from .base import Guidance
from .dps import norm_ascent
from .state import Estimate, State, Step


@dataclass(frozen=True)
class DSG(Guidance):
    """The fresh noise turned towards the data.

    Args:
        guidance_rate: w in [0, 1]: 0 is unguided, 1 replaces the noise by the gradient; the paper uses 0.1 to 0.2.
        jacobian: as in `DPS`.
    """

    guidance_rate: float = 0.2
    jacobian: bool = True

    label = "DSG"
    vjp_calls = 1
    owns_transition = True

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        return Estimate(x0, ascent=state.pull_back(norm_ascent(self, state.x0), self.jacobian))

    def transition(self, x_s: Tensor, step: Step) -> Tensor:
        if step.v == 0:
            return x_s
        noise = step.v * step.z
        radius = step.v * x_s[0].numel() ** 0.5
        best = radius * step.ascent / sample_norm(step.ascent)
        mixed = noise + self.guidance_rate * (best - noise)
        return x_s - noise + radius * mixed / sample_norm(mixed)
