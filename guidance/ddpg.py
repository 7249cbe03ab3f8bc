"""Denoising diffusion with preconditioned guidance, DDPG (Garber and Tirer 2024), https://arxiv.org/abs/2312.16519.

The prediction takes a step that begins as a back-projection, which is fast, and ends as one of least squares, which
does not enlarge the noise:

    x0_hat(y) = x0_hat - mu [ (1 - d) A^T (A A^T + eta)^-1 + d c A^T ] (A x0_hat - y),    c = 1 / norm(A)^2
    d   = (alpha_s^2)^gamma of variance-preserving states, 0 where y is clean,    eta = max(1e-4, eta_y sigma_y^2)

At d = 0 and eta = 0 it is DDNM; CM4IR (Garber and Tirer 2025, https://arxiv.org/abs/2412.20596) takes its first part
with a few-step model. sigma_y counts in units of [-1, 1], as in the papers. Its step is DDIM's with v = sqrt(zeta)
sigma_s: choose that noise rule in the Guided DDIM sampler.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ..algebra.norms import operator_norm
from ..algebra.streams import Streams
from ..diffusion.state import Estimate, State
from ..operators.spectral import SpectralOperator
from .base import Guidance


@dataclass(frozen=True)
class DDPG(Guidance):
    """Early a pseudo-inverse, late least squares.

    Args:
        gamma: when the one becomes the other: larger is later, > 0.
        eta: regularisation of the inverse, in units of the noise's variance, >= 0.
        step: mu, 1 is the whole way.
    """

    gamma: float = 8.0
    eta: float = 0.2
    step: float = 1.0

    label = "DDPG"
    latent = "pictures"
    needs = ("linear",)
    whitens = True

    @cached_property
    def _norm2(self) -> Tensor:
        """norm(A)^2, a number or one for each sample."""
        operator, y = self.measurement.operator, self.measurement.y
        if isinstance(operator, SpectralOperator):
            s = operator.singular_values(y.new_empty(0, *operator.image_shape(tuple(y.shape))))
            return s.flatten(1).amax(1) ** 2 if len(s) == operator.batch else s.max() ** 2
        probe = Streams(0, "DDPG", len(y)).normal(y.new_empty(len(y), *operator.image_shape(tuple(y.shape))))
        return operator_norm(lambda x: operator.adjoint(operator.forward(x)), 1 + probe)

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        operator, level = self.measurement.operator, state.s or state.t
        residual = self.measurement.residual(x0)
        scale, sigma = state.t.scale, self.measurement.noise.sigma
        regular = max(1e-4, self.eta * (scale * sigma) ** 2)
        inverse = operator.adjoint(operator.solve(residual, regular))
        share = (level.alpha / level.vp_norm) ** (2 * self.gamma) if self.measurement.noisy else 0.0
        least = operator.adjoint(residual) / self._norm2.reshape(-1, 1, 1, 1)
        return Estimate(x0 + self.step * ((1 - share) * inverse + share * least))
