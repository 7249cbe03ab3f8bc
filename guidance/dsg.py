"""Diffusion with spherical Gaussian constraint, DSG (Yang et al. 2024), https://arxiv.org/abs/2402.03201.

In high dimension the fresh noise v z of a step lies on a sphere of radius R = sqrt(n) v around the step's mean. The
guided step stays on that sphere and only turns towards the data:

    d* = -R g / norm(g),    g = grad_{x_t} norm(y - A(x0_hat))
    d  = v z + w (d* - v z),    x_s = mean + R d / norm(d)

Large steps without leaving the noise level. Without fresh noise (eta = 0, the last step) there is no sphere and the
step stays as it is. Several blocks turn one noise on one sphere: each hands over w_k g_k / norm(g_k), and

    w = min(1, norm(sum_k w_k g_k / norm(g_k))),    d* = -R sum_k w_k g_k / norm(g_k) / norm(...)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..algebra.norms import sample_norm
from ..diffusion.state import Estimate, State
from .base import Guidance
from .dps import norm_ascent


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
    owns_transition = True

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        gradient = state.pull_back(norm_ascent(self, state.x0), self.jacobian, last=True)
        return Estimate(x0, ascent=self.guidance_rate * (gradient / sample_norm(gradient)))


def turned(z: Tensor, ascent: Tensor | float) -> Tensor:
    """Fresh noise z, `B C H W`, turned by what the blocks hand over, each sample of length sqrt(n); z without any."""
    if not isinstance(ascent, Tensor):
        return z
    radius, length = z[0].numel() ** 0.5, sample_norm(ascent)
    mixed = z + length.clamp_max(1.0) * (radius * (ascent / length) - z)
    return radius * (mixed / sample_norm(mixed))
