"""Posterior sampling with latent diffusion, PSLD (Rout et al. 2023), https://arxiv.org/abs/2307.00619.

DPS through a decoder does not see which latents stand for the same picture. PSLD adds a gluing term, which asks that
x0_hat be the encoding of its own picture once that has been made to agree with the measurement (Algorithm 2):

    x_s -= omega grad_{x_t} norm(y - A D(x0_hat)) + gamma grad_{x_t} norm(x0_hat - E(x*)),
    x*   = A^+ y + (I - A^+ A) D(x0_hat)

The norms are not squared, as in the published code, and taken per sample; pictures are in [-1, 1] in the first one. The
paper has A^T in place of A^+, which is the same for masks; where it is not, A^T y is no picture. A step costs a
decoding and an encoding with their gradients, besides the model's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.autograd import pulled_back, traced
from ..algebra.norms import sample_norm
from ..algebra.refusal import Refusal
from ..measurement.decoded import Decoded
from .base import Guidance
from .state import Estimate, State


@dataclass(frozen=True)
class PSLD(Guidance):
    """DPS with a gluing term, for latent models.

    Args:
        omega: step size of the measurement's term, as zeta in `DPS`; the code uses 1 with 1000 steps.
        gamma: step size of the gluing term, latent units; the code uses 0.1 with 1000 steps.
    """

    omega: float = 1.0
    gamma: float = 0.1

    label = "PSLD"
    jacobian = True
    vjp_calls = 1
    latent = "only"

    def validate(self) -> None:
        super().validate()
        operator = self.measurement.operator
        pictures = operator.operator if isinstance(operator, Decoded) else operator
        if not pictures.linear:
            raise Refusal(f"PSLD needs a linear operator, and {pictures.label} is not; choose DPS instead.")

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        operator, y = self.measurement.operator, self.measurement.y
        pictures, codec = operator.operator, operator.codec

        def loss(z: Tensor) -> Tensor:
            image = codec.decode(z)
            residual = y - pictures.forward(image)
            glued = codec.encode(image + pictures.pinv(residual))
            return 2 * self.omega * sample_norm(residual).sum() + self.gamma * sample_norm(z - glued).sum()

        leaf, value = traced(loss, state.x0)
        return Estimate(x0, -state.t.norm * state.vjp(pulled_back(value, leaf, torch.ones_like(value))))
