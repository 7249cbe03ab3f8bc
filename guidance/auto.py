"""A method that fits a measurement, chosen by what its operator and noise allow."""

from __future__ import annotations

import math

from ..operators.errors import Refusal
from ..operators.measurement import Measurement
from .base import Guidance
from .ddnm import DDNM
from .diffpir import DiffPIR
from .dps import DPS
from .pigdm import PiGDMPublished


def automatic(measurement: Measurement, steps: int, latent: bool = False) -> tuple[Guidance, str]:
    """The method, and the choice in words.

    Args:
        measurement: what was seen.
        steps: how many steps the sampler will take; the length of DPS's steps depends on it.
        latent: whether the model works on latents, through which no operator is linear.
    """
    if latent:
        return DPS(measurement, 1000 / steps), "DPS, because the model works on latents"
    if not measurement.operator.linear and _has_inverse(measurement):
        return PiGDMPublished(measurement), "Pi-GDM, because the damage is not linear but has a generalised inverse"
    if not measurement.operator.linear:
        # the norm in the recipe, made for 3 x 256 x 256, grows with the root of the size
        share = math.sqrt(math.prod(measurement.image_shape) / (3 * 256 * 256))
        return DPS(measurement, share * 1000 / steps), "DPS, because the damage is not linear"
    if measurement.noisy:
        return DiffPIR(measurement), "DiffPIR, because the damage is linear and there is noise"
    return DDNM(measurement), "DDNM, because the damage is linear and there is no noise"


def _has_inverse(measurement: Measurement) -> bool:
    """Whether the operator, and every part of it, can be undone."""
    try:
        measurement.operator.pinv(measurement.y)
    except Refusal:
        return False
    return True
