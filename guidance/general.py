"""The template behind the explicit methods (Daras et al. 2024, section 3), https://arxiv.org/abs/2410.00083.

    grad_{x_t} log p(y given x_t) ~ L_t M_t / G_t

an error M in the measurement, a lifting L of it to the picture, and a scale G; with sigma_bar = sigma / alpha:

    M  prediction  y - A(x0_hat)          state     y - A(x_t / alpha_t)
    L  adjoint     A^T / alpha_t          pinv      A^+ / alpha_t          jacobian  J^T A^T
    G  variance    sigma_y^2 + c sigma_bar_t^2      constant  c            norm      c norm(M), per sample

Score-ALD is (state, adjoint, variance c = 1), DPS in its Gaussian form (prediction, jacobian, variance c = 0), DDNM
(prediction, pinv, variance c = 1) at sigma_y = 0. For operators that are not linear A^T is the transposed Jacobian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from ..algebra.norms import sample_norm
from ..algebra.refusal import Refusal
from ..diffusion.state import Estimate, State
from .base import Guidance

Error = Literal["prediction", "state"]
Lifting = Literal["adjoint", "pinv", "jacobian"]
Scale = Literal["variance", "constant", "norm"]
ERRORS, LIFTINGS, SCALES = get_args(Error), get_args(Lifting), get_args(Scale)


@dataclass(frozen=True)
class General(Guidance):
    """Any member of the family.

    Args:
        error, lifting, scale: M, L and G.
        c: the constant in G, >= 0 (image units where it is a variance).

    Raises:
        Refusal: where G would be 0.
    """

    error: Error = "prediction"
    lifting: Lifting = "adjoint"
    scale: Scale = "variance"
    c: float = 1.0

    label = "General guidance"

    @property
    def jacobian(self) -> bool:
        return self.lifting == "jacobian"

    def validate(self) -> None:
        super().validate()
        if self.lifting == "pinv" and not self.measurement.operator.linear:
            raise Refusal("A lifting by the pseudo-inverse needs a linear operator; choose another lifting.")
        if self.c == 0 and (self.scale != "variance" or not self.measurement.noisy):
            raise Refusal("The scale of the guidance is 0; set c above 0.")

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        if not state.t.inverse_alpha:  # nothing of the picture in the state
            return Estimate(x0)
        operator, variance = self.measurement.operator, (state.t.sigma * state.t.inverse_alpha) ** 2
        point = state.x0 if self.error == "prediction" else state.x_t * state.t.inverse_alpha
        y, pull_back = operator.linearise(point)
        residual = self.measurement.y - y
        if self.scale == "variance":
            residual = residual / (self.variance + self.c * variance)
        else:
            residual = residual / (self.c if self.scale == "constant" else self.c * sample_norm(residual))
        inverse = self.lifting == "pinv"
        lifted = self.measurement.inverse(residual, state.t.sigma_bar) if inverse else pull_back(residual)
        return Estimate(x0 + (state.covariance(lifted, last=True) if self.jacobian else variance * lifted))
