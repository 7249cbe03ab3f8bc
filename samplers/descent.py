"""The descent of x_0 to a measurement's noise level, through whatever lies between: f(x) = norm(W (y - A(x)))^2 / 2.

Conjugate directions (Polak and Ribiere's, never below 0), and along each the exact minimum of the quadratic that the
residual r is there, r(x + h d) ~ r - h s with the slope s = d A(x + h d) / dh by a finite difference:

    h = <r, s> / norm(s)^2,   or before that where norm(r - h s)^2 = m sigma_y^2

the discrepancy principle of Morozov: a fit beyond the noise fits the noise. No step size is left to be tuned; what is
published for methods through a decoder (FlowDPS, FLAIR, TriPS) are steps of fixed length in units that change with
size, noise and task. (FAST-DIPS, ICLR 2026, has the line search; conjugate gradients stopped so are Hanke's 1995.)
An iteration costs A with its derivative, and A once more. For linear A it is conjugate gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..guidance.dps import precision
from ..measurement.measurement import Measurement
from ..measurement.noise import ROUNDING

#: length of the finite difference, root mean square of the change: short for a decoder's curvature, long for half
#: precision
PROBE = 0.03
#: how near to the noise level is there, so that rounding starts nothing anew
ENOUGH = 1.001


def descend(measurement: Measurement, x: Tensor, iterations: int) -> Tensor:
    """x_0 nearer to y, each sample until its residual is down to the noise. x: `B C H W`."""
    weight, operator = precision(measurement), measurement.operator
    goal = ENOUGH * noise_energy(measurement)
    direction = before = None
    for _ in range(iterations):
        y, pull_back = operator.linearise(x)
        residual = weight * (measurement.y - y)
        energy = _total(residual * residual)
        if not (energy > goal).any():  # a look at the device; the decoder would cost far more
            break
        gradient = pull_back(weight * residual)
        if direction is None:
            direction = gradient
        else:
            turn = _total(gradient * (gradient - before)) / _total(before * before).clamp_min(_TINY)
            direction = gradient + _beside(turn.clamp_min(0), x) * direction
        before = gradient
        reach = PROBE * direction[0].numel() ** 0.5 / _total(direction * direction).sqrt().clamp_min(_TINY)
        slope = weight * (operator.forward(x + _beside(reach, x) * direction) - y) / _beside(reach, y)
        step = stopped(energy, _total(residual * slope), _total(slope * slope), goal)
        x = x + _beside(step, x) * direction
    return x


def stopped(energy: Tensor, fall: Tensor, curvature: Tensor, goal: Tensor) -> Tensor:
    """The h >= 0 that minimises energy - 2 h fall + h^2 curvature, or the first where that is down to the goal, `B`."""
    best = fall / curvature.clamp_min(_TINY)
    root = (best.square() - (energy - goal) / curvature.clamp_min(_TINY)).clamp_min(0).sqrt()
    return torch.where(energy > goal, (best - root).clamp_min(0), 0.0)


def noise_energy(measurement: Measurement) -> Tensor:
    """E norm(W (y - A(x)))^2 at the truth, `B` or `1`; noise below the rounding of 8 bits counts as that."""
    weight, support = precision(measurement), measurement.operator.support(measurement.y)
    deviation = torch.as_tensor(measurement.noise.deviation(measurement.y)).to(measurement.y).clamp_min(ROUNDING)
    expected = (weight * deviation).expand_as(measurement.y) ** 2
    return _total(expected if support is None else expected * support)


_TINY = 1e-30


def _total(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)


def _beside(one: Tensor, x: Tensor) -> Tensor:
    return one.reshape(-1, *[1] * (x.ndim - 1))
