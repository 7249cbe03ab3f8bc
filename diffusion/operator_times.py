"""Noise levels that fit the damage: SAS (Cao et al. 2026), "Making Every Step Count".

The singular values a_k of A, abar_k = a_k / max(a), d unknowns and rank r, say what a model has to make up and when:

    miss = (d - r) / d,    weak = (r - sum abar_k^2) / d
    D(u) = miss s^2 / (a^2 + s^2) + weak a^2 / (a^2 + s^2),    a = 1 - u,  s = u

What is missing is settled at high noise, what is weak at low noise. The times u_1 > ... > u_K of a flow model are the
quantiles 1 - j / (K + 1) of the density 1 + lambda D(u) between the end (0.18 in the paper) and the start.
"""

from __future__ import annotations

import torch

from ..algebra.norms import operator_norm
from ..algebra.refusal import Refusal
from ..algebra.streams import Streams
from ..measurement.measurement import Measurement
from ..operators.spectral import SpectralOperator, pseudo_reciprocal


def lost(measurement: Measurement) -> tuple[float, float]:
    """(miss, weak). Traces of functions of A^T A are estimated by one random picture of +-1; exact for masks.

    An operator without singular values is taken to have full rank.

    Raises:
        Refusal: for damage that is not linear.
    """
    operator, y = measurement.operator, measurement.y[:1]
    if not operator.linear:
        raise Refusal(f"{operator.label} has no singular values to fit steps to; take a scheduler of the model's own.")
    image = Streams(0, "SAS").normal(y.new_empty(1, *measurement.image_shape)).sign()
    d = image.numel()
    if isinstance(operator, SpectralOperator):
        one = operator.take(torch.tensor([0]))
        rank = (image * one.filter(image, lambda s: (pseudo_reciprocal(s) > 0).to(s))).sum().item() / d
        power = (image * one.filter(image, lambda s: (s / s.max()) ** 2)).sum().item() / d
    else:
        rank = min(y.numel() / d, 1.0)
        top = operator_norm(lambda x: operator.adjoint(operator.forward(x)), 1 + image)
        power = min((operator.forward(image).square().sum() / top.sum()).item() / d, rank)
    return 1 - rank, max(rank - power, 0.0)


def times(miss: float, weak: float, steps: int, start: float = 1.0, end: float = 0.18, strength: float = 1.0) -> list:
    """u_1 to u_K, falling.

    Args:
        start, end: between which, 0 <= end < start <= 1.
        strength: lambda, 0 for even steps.
    """
    u = torch.linspace(end, start, 2001, dtype=torch.float64)
    s2, a2 = u**2, (1 - u) ** 2
    density = 1 + strength * (miss * s2 + weak * a2) / (a2 + s2)
    mass = torch.cat([density.new_zeros(1), ((density[1:] + density[:-1]) / 2).cumsum(0)])
    wanted = mass[-1] * (1 - torch.arange(1, steps + 1, dtype=torch.float64) / (steps + 1))
    after = torch.searchsorted(mass, wanted).clamp(1, len(u) - 1)
    share = (wanted - mass[after - 1]) / (mass[after] - mass[after - 1])
    return (u[after - 1] + share * (u[after] - u[after - 1])).tolist()
