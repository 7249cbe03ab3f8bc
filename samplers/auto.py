"""A sampler that brings the measurement in by itself, where a latent model is better off with one than with DPS."""

from __future__ import annotations

from ..guidance.auto import FEW
from ..measurement.measurement import Measurement
from .base import Sampler
from .flair import FLAIR
from .flow_dps import TRIPS
from .latino import LATINO


def for_latents(measurement: Measurement, steps: int, cfg: float, gradient: bool) -> tuple[Sampler, str] | None:
    """The sampler and the choice in words, None for guidance by `guidance.auto` instead.

    Args:
        cfg: scale of classifier-free guidance; few-step models are made for 1, which is off.
        gradient: whether there is memory for a gradient through the model.
    """
    if steps <= FEW and cfg <= 1 and measurement.operator.linear:
        return LATINO(), "LATINO, because these are few steps without CFG and the damage is linear; no gradient"
    if steps <= FEW:
        why = "with CFG" if measurement.operator.linear else "and the damage is not linear"
        return FLAIR(), f"FLAIR, because these are few steps {why}; gradient through the VAE alone"
    if not gradient:
        return TRIPS, "TriPS-T, because a gradient through this model does not fit the memory, only one through the VAE"
    return None
