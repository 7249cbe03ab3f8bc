"""A measurement of the picture that a latent stands for, y = A(D(z)), and its linearisation.

D and E are the decoder and the encoder of an autoencoder. Even with a linear A the measured function is not linear;
near a point p it is y ~ A(p) + J (x - p), which methods for linear operators can use as a measurement of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..algebra.autograd import pulled_back, traced
from ..algebra.krylov import conjugate_gradient
from ..operators.base import LinearOperator, Operator
from .measurement import Measurement


class Codec(Protocol):
    """An autoencoder between latents `B c h w` and pictures `B C H W` in [0, 1], both ways differentiable."""

    def decode(self, z: Tensor) -> Tensor:
        """D(z), not cut to [0, 1]."""

    def encode(self, x: Tensor) -> Tensor:
        """E(x), the mean where the encoder is random."""


class Decoded(Operator):
    """y = A(D(z))."""

    def __init__(self, operator: Operator, codec: Codec):
        self.operator, self.codec = operator, codec
        self.label = f"{operator.label} seen through a VAE"

    @property
    def batch(self) -> int:
        return self.operator.batch

    def forward(self, x: Tensor) -> Tensor:
        return self.operator.forward(self.codec.decode(x))

    def linearise(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        leaf, y = traced(self.forward, x)
        return y.detach(), lambda v: pulled_back(y, leaf, v, apart=True)

    def pinv(self, y: Tensor) -> Tensor:
        """E(A^+ y): an inverse as far as the autoencoder is one."""
        return self.codec.encode(self.operator.pinv(y))

    def support(self, y: Tensor) -> Tensor | None:
        return self.operator.support(y)

    def take(self, index: Tensor) -> Decoded:
        return Decoded(self.operator.take(index), self.codec)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Decoded:
        return Decoded(self.operator.to(device, dtype), self.codec)


class Pixels:
    """The codec of a model that works on pictures."""

    def decode(self, z: Tensor) -> Tensor:
        return z

    def encode(self, x: Tensor) -> Tensor:
        return x


def of_pictures(measurement: Measurement) -> tuple[Measurement, Codec]:
    """A measurement of a model's x_0 as one of pictures, and the way between the two."""
    operator = measurement.operator
    if isinstance(operator, Decoded):
        return replace(measurement, operator=operator.operator), operator.codec
    return measurement, Pixels()


class Linearised(LinearOperator):
    """J = d A / d x at a point: J v by forward-mode differentiation, J^T v on one graph that is kept.

    Args:
        operator: A.
        point: p, `B C H W`.
        iterations: cap of the conjugate gradients behind `solve` and `pinv`, each one J and one J^T.
    """

    def __init__(self, operator: Operator, point: Tensor, iterations: int = 5):
        self.operator, self.point, self.iterations = operator, point, iterations
        self.label = operator.label
        self._leaf, self._value = traced(operator.forward, point)

    def forward(self, x: Tensor) -> Tensor:
        # fused attention has no forward derivative
        with torch.inference_mode(False), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
            dual = forward_ad.make_dual(self.point.detach().clone(), x.detach().clone())
            tangent = forward_ad.unpack_dual(self.operator.forward(dual)).tangent
        return torch.zeros_like(self._value) if tangent is None else tangent

    def adjoint(self, y: Tensor) -> Tensor:
        return pulled_back(self._value, self._leaf, y.expand_as(self._value), keep=True)

    def solve(self, r: Tensor, c: float | Tensor = 0.0) -> Tensor:
        return conjugate_gradient(
            lambda v: self.forward(self.adjoint(v)) + c * v, r, iterations=self.iterations, warn=False
        )

    def prox(self, z: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
        return z + self.adjoint(self.solve(y - self.forward(z), rho))

    def pinv(self, y: Tensor) -> Tensor:
        return conjugate_gradient(
            lambda x: self.adjoint(self.forward(x)), self.adjoint(y), iterations=self.iterations, warn=False
        )

    def measured(self, measurement: Measurement) -> Measurement:
        """A measurement of A as one of J: y - A(p) + J p = J x + noise."""
        y = measurement.y - self._value.detach() + self.forward(self.point)
        return Measurement(self, y, measurement.noise, measurement.rounding)
