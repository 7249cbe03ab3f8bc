"""Moment matching posterior sampling, MMPS (Rozet et al. 2024), https://arxiv.org/abs/2405.13712.

x_0 given x_t is taken as N(x0_hat, V) with its true covariance V = (sigma_t^2 / alpha_t) J:

    grad_{x_t} log p(y given x_t) ~ J^T A^T (A V A^T + sigma_y^2 I)^-1 (y - A x0_hat)
    x0_hat(y) = x0_hat + V A^T (A V A^T + sigma_y^2 I)^-1 (y - A x0_hat)

exact for Gaussian priors. Each product with V is one backward pass through the network on the same graph. J is
symmetric and positive in theory, in a trained network only nearly so: the paper's conjugate gradients then run away
after a few iterations (on the digits prior with eight of them to errors of 10^6), so the system is solved by minimal
residuals, which cannot. Where J is symmetric both reach the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..algebra.krylov import minimal_residual
from ..diffusion.state import Estimate, State
from .base import Guidance


@dataclass(frozen=True)
class MMPS(Guidance):
    """Moment matching with the full covariance.

    Args:
        iterations: products at most, each one backward pass; the paper uses 1 to 5 for pictures.
    """

    iterations: int = 3

    label = "MMPS"
    jacobian = True
    needs = ("linear",)

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        operator, variance = self.measurement.operator, self.variance

        def evidence(w: Tensor) -> Tensor:
            return operator.forward(state.covariance(operator.adjoint(w))) + variance * w

        w = minimal_residual(evidence, self.measurement.residual(state.x0), self.iterations)
        return Estimate(x0 + state.covariance(operator.adjoint(w), last=True))
