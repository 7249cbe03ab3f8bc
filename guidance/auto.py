"""A method that fits a measurement, chosen by what its operator and noise allow."""

from __future__ import annotations

from ..operators.measurement import Measurement
from .base import Guidance
from .ddnm import DDNM
from .diffpir import DiffPIR
from .dps import DPS


def automatic(measurement: Measurement, steps: int, latent: bool = False) -> tuple[Guidance, str]:
    """The method, and the choice in words.

    Args:
        measurement: what was seen.
        steps: how many steps the sampler will take; the length of DPS's steps depends on it.
        latent: whether the model works on latents, through which no operator is linear.
    """
    dps = DPS(measurement, 1000 / steps)
    if latent:
        return dps, "DPS, because the model works on latents"
    if not measurement.operator.linear:
        return dps, "DPS, because the damage is not linear"
    if measurement.noisy:
        return DiffPIR(measurement), "DiffPIR, because the damage is linear and there is noise"
    return DDNM(measurement), "DDNM, because the damage is linear and there is no noise"
