"""Posterior sampling with latent diffusion, PSLD (Rout et al. 2023), https://arxiv.org/abs/2307.00619.

DPS through a decoder does not see which latents stand for the same picture. PSLD adds a gluing term, which asks that
x0_hat be the encoding of its own picture once that has been made to agree with the measurement (Algorithm 2):

    x_s -= omega grad_{x_t} norm(W (y - A D(x0_hat))) + gamma grad_{x_t} norm(x0_hat - E(x*)),
    x*   = A^T y + (I - A^T A) D(x0_hat)

The norms are not squared, as in the published code, and taken per sample; pictures are in [-1, 1] in the first one. The
paper's A has norm 1, so that I - A^T A is no expansion; any other is divided by its norm here, which for a reduction in
size is the enlargement that the code has for A^T. W is the precision of DPS where the noise differs between the entries
of y; x* then takes W A, with W at most 1, for A. A step costs a decoding and an encoding with their gradients, besides
the model's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..algebra.autograd import pulled_back, traced
from ..algebra.norms import operator_norm, sample_norm
from ..algebra.refusal import Refusal
from ..algebra.streams import Streams
from ..diffusion.state import Estimate, State
from ..measurement.decoded import Decoded
from .base import Guidance
from .dps import precision


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
    latent = "only"

    def validate(self) -> None:
        super().validate()
        operator = self.measurement.operator
        pictures = operator.operator if isinstance(operator, Decoded) else operator
        if not pictures.linear:
            raise Refusal(f"PSLD needs a linear operator, and {pictures.label} is not; choose DPS instead.")

    @cached_property
    def _landweber(self) -> tuple[float | Tensor, Tensor]:
        """W and the W^2 / norm(W A)^2 of x*: x* = D + A^T W^2 / norm(W A)^2 (y - A D)."""
        pictures, y = self.measurement.operator.operator, self.measurement.y
        weight = precision(self.measurement)
        probe = Streams(0, "PSLD", len(y)).normal(y.new_empty(len(y), *pictures.image_shape(y.shape)))
        norm = operator_norm(lambda x: pictures.adjoint(weight**2 * pictures.forward(x)), 1 + probe)
        share = torch.as_tensor(weight).pow(2) / norm.reshape(-1, *[1] * (y.ndim - 1))
        return weight, share

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        operator, y = self.measurement.operator, self.measurement.y
        pictures, codec = operator.operator, operator.codec

        def loss(z: Tensor) -> Tensor:
            weight, share = self._landweber
            image = codec.decode(z)
            residual = y - pictures.forward(image)
            glued = codec.encode(image + pictures.adjoint(share * residual))
            data = 2 * self.omega * sample_norm(weight * residual).sum()
            return data + self.gamma * sample_norm(z - glued).sum()

        leaf, value = traced(loss, state.x0)
        return Estimate(x0, -state.t.vp_norm * state.vjp(pulled_back(value, leaf, torch.ones_like(value)), last=True))
