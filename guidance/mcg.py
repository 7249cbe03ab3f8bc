"""Manifold constrained gradient, MCG (Chung et al. 2022), https://arxiv.org/abs/2206.00941.

A gradient step through the prediction, then a projection on the noised measurement (Algorithm 1):

    x_s -= zeta grad_{x_t} norm(y - A x0_hat),    x_s += A^+ (alpha_s y + sigma_s A z - A x_s)

The gradient is DPS's, with W = I; the paper writes the square of the norm and its code a length of its own per task.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..diffusion.state import Step
from .dps import DPS
from .projection import project


@dataclass(frozen=True)
class MCG(DPS):
    """DPS's gradient and a hard projection; for clean measurements. Arguments as in `DPS`."""

    label = "MCG"
    owns_transition = True
    needs = ("linear",)

    def transition(self, x_s: Tensor, step: Step) -> Tensor:
        return project(x_s, self.measurement, step)
