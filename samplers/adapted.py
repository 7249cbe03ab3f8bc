"""Particle filters that know the next target before they step: fully adapted, for operators with singular values.

In the rows of A = U diag(s) V^T, with y_bar = A^+ y of noise tau = sigma_y / s, a method names for each level a
Gaussian target g_s(x_s) = N(c_s; x_s, var_s) of its active directions. Model's step times target is Gaussian:

    psi_t(x_t)    = integral p(x_s|x_t) g_s(x_s)  = N(c_s; m(x_t), v^2 + var_s)
    q(x_s|x_t)    = p g_s / psi_t                 = N(m + K (c_s - m), K var_s),    K = v^2 / (v^2 + var_s)
    ratio         = 1 / g_s(x_s)    for directions where the target only foresaw what comes, 1 where it was observed

The last step has p(x_0|x_t) = N(x0_hat, r_t^2 I) in the measured directions: an exact draw, so that no sharp likelihood
comes as a surprise. All is done by filters on pictures, at any size.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from ..algebra.streams import Streams
from ..diffusion.run import Run
from ..diffusion.state import State
from ..measurement.measurement import Measurement
from ..operators.spectral import SpectralOperator, pseudo_reciprocal
from .particles import Kernel, Look, ParticleSampler, Twist, inner


def spectral(sampler: ParticleSampler, measurement: Measurement) -> Measurement:
    """The measurement in units of one noise level.

    Raises:
        Refusal: where the operator has no singular values.
    """
    measurement = measurement.whitened().resolved()
    if not isinstance(measurement.operator, SpectralOperator):
        raise Refusal(
            f"{sampler.label} needs singular values, which {measurement.operator.label} does not have; choose TDS "
            "instead."
        )
    return measurement


class Adapted(Twist):
    """A subclass names the targets. measurement: see `spectral`. Factors that all particles share are left out."""

    proper = False

    def __init__(self, measurement: Measurement):
        super().__init__(measurement)
        self.y_bar = self.measurement.operator.pinv(self.measurement.y)

    @abstractmethod
    def centre(self, kernel: Kernel) -> Tensor:
        """c_s, `B C H W`, for all samples or one for all."""

    @abstractmethod
    def variance(self, tau: Tensor, kernel: Kernel) -> Tensor:
        """var_s for directions of noise tau, >= 0; not finite where they are not active."""

    def foreseeing(self, tau: Tensor, kernel: Kernel) -> Tensor | None:
        """Where the target is divided out again, bool; None for nowhere, the default."""

    def look(self, run: Run, x: Tensor, kernel: Kernel, index: Tensor, draw: Streams) -> Look:
        x0 = run.prior(x, kernel.t)
        mean = kernel.stay * x + kernel.gain * x0
        width2 = self._width2(x, kernel)
        miss, filtered = self._miss(mean, kernel, index), self._filter(kernel, index)
        pull = filtered(miss, lambda var: width2 / (width2 + var))
        return Look(x0, -inner(miss, filtered(miss, lambda var: 1 / (width2 + var))) / 2, pull)

    def move(self, mean: Tensor, look: Look, z: Tensor, kernel: Kernel, index: Tensor) -> tuple[Tensor, Tensor]:
        width2, filtered = self._width2(mean, kernel), self._filter(kernel, index)
        narrow = filtered(z, lambda var: (width2 * var / (width2 + var)).sqrt() - kernel.v)
        x = mean + look.pull + kernel.v * z + narrow
        if self.foreseeing(x.new_zeros(1), kernel) is None:
            return x, x.new_zeros(len(x))
        miss = self._miss(x, kernel, index)
        return x, inner(miss, self._filter(kernel, index, again=True)(miss, lambda var: 1 / var)) / 2

    def last(self, x: Tensor, ratio: Tensor, index: Tensor) -> Tensor:
        return ratio

    def _width2(self, x: Tensor, kernel: Kernel) -> float:
        """v^2, and r_t^2 in the last step."""
        return kernel.v**2 if kernel.s.sigma else State(x, kernel.t, x).white_variance()

    def _miss(self, x: Tensor, kernel: Kernel, index: Tensor) -> Tensor:
        centre = self.centre(kernel)
        return (centre[index.to(centre.device)] if len(centre) > 1 else centre) - x

    def _response(self, kernel: Kernel, response: Callable[[Tensor], Tensor], again: bool):
        def of(s: Tensor) -> Tensor:
            tau = self.measurement.noise.sigma * pseudo_reciprocal(s)
            var = self.variance(tau, kernel)
            active = (tau > 0) & torch.isfinite(var)
            active = active & self.foreseeing(tau, kernel) if again else active
            return torch.where(active, response(torch.where(active, var, 1.0)), 0.0)

        return of

    def _filter(self, kernel: Kernel, index: Tensor, again: bool = False):
        operator = self.measurement.operator.take(index)
        return lambda x, response: operator.filter(x, self._response(kernel, response, again))


def observed_path(y_bar: Tensor, walk: list[Kernel], draw: Streams) -> list[Tensor]:
    """alpha_s y_bar + sigma_s z, what was measured with the noise of each step: a path of the forward process."""
    z, path = draw.normal(y_bar), []
    for kernel in walk:
        fresh = min(kernel.v / kernel.s.sigma, 1.0) if kernel.s.sigma else 0.0
        z = math.sqrt(1 - fresh**2) * z + fresh * draw.normal(y_bar)
        path.append(kernel.s.alpha * y_bar + kernel.s.sigma * z)
    return path
