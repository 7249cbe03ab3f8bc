"""Tweedie moment projected diffusions, TMPD (Boys et al. 2023), https://arxiv.org/abs/2310.06721.

Moment matching as in MMPS, with V = (sigma_t^2 / alpha_t) J, where the covariance of y given x_t is replaced by a
diagonal, its row sums (the paper's approximation for pictures), which cost one more backward pass:

    grad_{x_t} log p(y given x_t) ~ J^T A^T (diag(A V A^T 1) + sigma_y^2 I)^-1 (y - A x0_hat)

exact where A V A^T is diagonal. Rows that sum to less than nothing count as 0, so sigma_y must not be.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.state import Estimate, State
from .base import Guidance


@dataclass(frozen=True)
class TMPD(Guidance):
    """Moment matching with a diagonal covariance."""

    label = "TMPD"
    jacobian = True
    needs = ("linear", "noisy")

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        operator, residual = self.measurement.operator, self.measurement.residual(state.x0)
        row_sums = operator.forward(state.covariance(operator.adjoint(torch.ones_like(residual))))
        w = residual / (row_sums.clamp_min(0) + self.variance)
        return Estimate(x0 + state.covariance(operator.adjoint(w), last=True))
