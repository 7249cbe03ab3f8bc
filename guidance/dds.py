"""Decomposed diffusion sampler, DDS (Chung et al. 2024), https://arxiv.org/abs/2303.05754.

The prediction is improved by a few conjugate gradient steps, which stay in the Krylov subspace where the tangent of
the data manifold is hoped to lie:

    noisy   x0_hat(y) = CG of (I + gamma A^T A) x = x0_hat + gamma A^T y, started at x0_hat
    clean   x0_hat(y) = CG of A^T A x = A^T y, started at x0_hat

Where y is clean but for a rounding tau that A would enlarge, gamma is (DETAIL / tau)^2, at which directions that the
rounding drowns stay with x0_hat. The paper keeps gamma constant over the sampling, and its step goes on with the
unguided noise prediction; ours with that of x0_hat(y), as DDIM does everywhere here.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..algebra.krylov import conjugate_gradient
from ..diffusion.state import Estimate, State
from ..measurement.measurement import DETAIL
from .base import Guidance


@dataclass(frozen=True)
class DDS(Guidance):
    """Data consistency by a few conjugate gradient steps.

    Args:
        iterations: steps of the conjugate gradients; the paper uses 5.
        gamma: weight of the data against the prediction where there is noise (no unit), > 0; the paper uses 5.
    """

    iterations: int = 5
    gamma: float = 5.0

    label = "DDS"
    latent = "pictures"
    needs = ("linear",)

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        operator, noisy, gamma = self.measurement.operator, self.measurement.noisy, self.gamma
        pull = operator.adjoint(self.measurement.y)
        if noisy and self.measurement.clean:
            gamma = (DETAIL / self.measurement.rounding) ** 2

        def normal_equations(x: Tensor) -> Tensor:
            gram = operator.adjoint(operator.forward(x))
            return x + gamma * gram if noisy else gram

        b = x0 + gamma * pull if noisy else pull.expand_as(x0)
        return Estimate(conjugate_gradient(normal_equations, b, x0, iterations=self.iterations, warn=False))
