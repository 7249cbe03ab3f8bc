"""LATINO (Spagnoletti et al. 2025), https://arxiv.org/abs/2503.12615: few-step models, and no gradient anywhere.

    start   x_T = alpha_T E(A^+ y) + sigma_T n
    x~      = D(x0_hat(x_t))
    x       = argmin_x norm(A x - y)^2 / (2 sigma_y^2) + norm(x - x~)^2 / (2 v)
    x_s     = alpha_s E(x) + sigma_s n                                      all noise fresh, none in the last step

N steps cost N model calls, N + 1 encodings and N decodings, one more to look at the result. It is DiffPIR
(`guidance.diffpir`) with zeta = 1, an error variance v of its own, one encoding a step (an autoencoder's own error
enters, and fresh noise hides it) and a start that few steps can finish.

The published v is delta sigma_t^2 with delta = c norm(A x~ - y) and a c for each task, whose norm grows with the size
of y. Here v is what the residual says. Errors of a decoded prediction lie in the dim(z) directions, of dim(x), that
latents can show: x~ = x + e, Var[e] = v P with a projection P of trace dim(z). So the residual r = y - A x~ has

    E norm(r)^2 = m sigma_y^2 + v tr(A P A^T),    tr(A P A^T) ~ tr(A A^T) dim(z) / dim(x)
    v = (norm(r)^2 / m - sigma_y^2)_+ / (tr(A A^T) / m)  dim(x) / dim(z)

for m numbers in y: a mean over a mean, whatever the size. A prediction that explains y as well as the noise allows
stays as it is (Morozov's discrepancy principle). tr(A A^T) = E norm(A^T b)^2 takes one random b of +-1, which is exact
where A A^T is diagonal. Nothing is cut to [0, 1] on the way; the published code does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from ..algebra.streams import Streams
from ..diffusion.level import Level
from ..diffusion.run import Run
from ..guidance.diffpir import error_precision
from ..guidance.latent import level_of_pictures
from ..measurement.decoded import Pixels, of_pictures
from ..measurement.measurement import Measurement
from .back_projection import noised_back_projection
from .base import Sampler

#: the least v, in units of the noise's: what counts as no error left
NONE = 1e-6


@dataclass(frozen=True)
class LATINO(Sampler):
    """One model call, decoding, proximal step and encoding a step.

    Args:
        start: E(A^+ y) with noise of the first level, which may lie below pure noise, or the state that is given.
        delta: v over sigma_t^2 / (alpha_t^2 + sigma_t^2) in [-1, 1], as published; 0 takes it from the residual.
    """

    start: Literal["back-projection", "given"] = "back-projection"
    delta: float = 0.0

    label = "LATINO"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        measurement, codec = of_pictures(run.measurement)
        if not measurement.operator.linear:
            label = measurement.operator.label
            raise Refusal(f"LATINO needs a linear operator, and {label} is not; choose FLAIR instead.")
        measurement = measurement.whitened().resolved()
        measurements = [measurement.take(torch.tensor([i])) for i in range(len(x))]
        gains = [trace(each, Streams(0, "LATINO")) for each in measurements]
        if self.start == "back-projection":
            x = noised_back_projection(run, x)
        for i, t, s in run.walk:
            image = codec.decode(run.prior(x, t))
            seen = t if isinstance(codec, Pixels) else level_of_pictures(t)
            ratio = image[0].numel() / x[0].numel()
            parts = zip(measurements, image.split(1), gains, strict=True)
            fitted = [self._fitted(one, part, gain, ratio, seen) for one, part, gain in parts]
            x0 = codec.encode(torch.cat(fitted))
            run.report(i, x, x0, t)
            x = s.alpha * x0 + (s.sigma * run.draw.normal(x0) if s.sigma else 0.0)
        return x

    def _fitted(self, measurement: Measurement, x: Tensor, gain: Tensor, ratio: float, t: Level) -> Tensor:
        """The proximal step of one picture. gain: tr(A A^T). ratio: dim(x) / dim(z)."""
        operator, y, sigma = measurement.operator, measurement.y, measurement.noise.sigma
        residual = measurement.residual(x)
        if not measurement.noisy:
            return x + operator.pinv(residual)
        variance = self.delta / error_precision(t, 1.0)
        if not self.delta:
            excess = residual.square().sum() - numbers(measurement) * sigma**2
            variance = (ratio * excess / gain).clamp_min(NONE * sigma**2)
        return operator.prox(x, y, sigma**2 / variance)


def numbers(measurement: Measurement) -> int | Tensor:
    """How many numbers were measured of a picture."""
    y, support = measurement.y[:1], measurement.operator.support(measurement.y[:1])
    return y.numel() if support is None else support.expand_as(y).sum()


def trace(measurement: Measurement, draw: Streams) -> Tensor:
    """tr(A A^T), by one probe of +-1."""
    probe = draw.normal(measurement.y[:1]).sign()
    support = measurement.operator.support(measurement.y[:1])
    return measurement.operator.adjoint(probe if support is None else probe * support).square().sum()
