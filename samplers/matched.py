"""TDS with matched moments: particles that foresee a measurement of few numbers as well as a Gaussian can (ours).

TDS (see `tds`) with the moments of MMPS (Rozet et al. 2024, https://arxiv.org/abs/2405.13712) in both its parts. With
the true covariance V = (sigma_t^2 / alpha_t) J of x_0 given x_t and S = A V A^T + sigma_y^2 I,

    psi_t(x_t) = N(y; A x0_hat, S)
    q(x_s|x_t) = N(m(x_t) + g V A^T S^-1 (y - A x0_hat), v^2 I)

S is wide where the model has not yet decided between modes, so that none is lost early, and its determinant tells
particles apart that have decided from those that have not. One backward pass for each measured number gives S and the
proposal, exactly. A network's J is only nearly symmetric: S is made so, and no eigenvalue is less than sigma_y^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from ..algebra.streams import Streams
from ..diffusion.run import Run
from ..diffusion.state import predict
from ..measurement.measurement import Measurement
from .particles import Kernel, Look, ParticleSampler, Twist

#: most numbers that are measured
MOST = 64


@dataclass(frozen=True)
class MatchedTDS(ParticleSampler):
    """For linear operators that measure few numbers.

    Raises:
        Refusal: for other operators, and for more than 64 numbers.
    """

    label = "TDS with matched moments"
    jacobian = True

    def twist(self, run: Run, x: Tensor, walk: list[Kernel]) -> Twist:
        measurement = run.measurement.whitened().resolved()
        if not measurement.operator.linear:
            raise Refusal(f"{self.label} needs a linear operator, and {measurement.operator.label} is not; choose TDS.")
        if measurement.y[0].numel() > MOST:
            raise Refusal(
                f"{self.label} takes a backward pass for each measured number, and these are "
                f"{measurement.y[0].numel()}; choose TDS for more than {MOST}."
            )
        return _Matched(measurement)


class _Matched(Twist):
    def __init__(self, measurement: Measurement):
        super().__init__(measurement)
        self.units = torch.eye(measurement.y[0].numel(), dtype=measurement.y.dtype, device=measurement.y.device)

    def look(self, run: Run, x: Tensor, kernel: Kernel, index: Tensor, draw: Streams) -> Look:
        measurement = self.measurement.take(index)
        operator, noise2 = measurement.operator, float(torch.as_tensor(measurement.noise.sigma)) ** 2
        state = predict(run.prior, x, kernel.t, True, s=kernel.s, index=kernel.index, draw=draw)
        columns, shape = [], measurement.y.shape[1:]  # V A^T e_i
        for i, unit in enumerate(self.units):
            lifted = operator.adjoint(unit.reshape(1, *shape).expand(len(x), *shape))
            state.last = i + 1 == len(self.units)
            columns.append(state.covariance(lifted, last=True))
        seen = torch.stack([operator.forward(column).flatten(1) for column in columns], 2)
        values, vectors = torch.linalg.eigh((seen + seen.mT) / 2)
        values = values.clamp_min(0) + noise2
        miss = (vectors.mT @ measurement.residual(state.x0).flatten(1)[:, :, None])[..., 0]
        weights = (vectors @ (miss / values)[:, :, None])[..., 0]
        pull = sum(w[:, None, None, None] * column for w, column in zip(weights.T, columns, strict=True))
        return Look(state.x0, -(miss**2 / values + values.log()).sum(1) / 2, kernel.gain * pull)
