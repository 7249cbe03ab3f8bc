"""The sampler that goes with the automatic choice of guidance, or does without one."""

from __future__ import annotations

from dataclasses import replace

from ..guidance.auto import EARLY, FEW, WIDE, Choice, automatic, deep
from ..guidance.diffpir import PHOTOS, DiffPIR
from ..guidance.timing import Timing
from ..measurement.measurement import Measurement
from .base import Sampler
from .ddim import GuidedDDIM
from .dpm import DPMSolver
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


#: share of the sampling up to which DiffPIR answers with draws; noise of later ones would stay in the picture
DRAWN = 0.9


def for_pictures(
    measurement: Measurement, calls: int, restore: bool = False, gradient: bool = False
) -> tuple[Choice, Sampler, int]:
    """Guidance, sampler and steps of a model on pictures, for so many model calls.

    Linear damage is sampled in steps of second order, which cost no more than those of first order.

    Where much of the picture is gone (`deep`) samples take each step twice, time travel with jump 1 on half as many
    levels, with DiffPIR as a draw, which puts more noise back where nothing was seen. With a gradient the first half of
    the levels has Pi-GDM once instead, for as many calls.

    Args:
        restore, gradient: as in `automatic`.
    """
    chosen = automatic(measurement, calls, False, restore, gradient and calls > FEW)
    if restore or calls <= FEW or not measurement.operator.linear:
        return chosen, GuidedDDIM(1.0), calls
    if deep(measurement) < WIDE:
        return chosen._replace(runner_up="Moment Matching (MMPS), with a gradient"), DPMSolver(stochastic=True), calls
    start = EARLY if gradient else 0.0
    *first, last = chosen.blocks
    drawn = DiffPIR(measurement, 1.0, PHOTOS, smooth=True, draw=True, timing=Timing(start=start, end=DRAWN))
    words, other = "DiffPIR as a draw, each step twice", "Pi-GDM in the first half (effort best)"
    if gradient:
        words, other = f"Pi-GDM in the first half, then {words}", f"{words} (without a gradient)"
    blocks = (*first, drawn, replace(last, timing=Timing(start=DRAWN)))
    chosen = Choice(blocks, f"{words}, because much of the picture is gone", other)
    return chosen, GuidedDDIM(1.0, repeats=2, jump=1, start=start), calls // 2
