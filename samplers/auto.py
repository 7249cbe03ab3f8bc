"""The sampler that goes with the automatic choice of guidance, or does without one."""

from __future__ import annotations

from dataclasses import replace

from ..guidance.auto import EARLY, FEW, WIDE, Choice, automatic, deep
from ..guidance.diffpir import PHOTOS, DiffPIR
from ..guidance.mmps import MMPS
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
#: products and model calls of a step of moment matching, MMPS
PRODUCTS, COST = 3, 5
#: from how many steps on it is better than five times as many without a gradient, where pixels were seen. `bench
#: frontier --train`, 20 / 50 calls: photographs' noise 3.8 / 2.7 (2.9 / 2.9), lost pixels 5.2 / 4.7 (4.9 / 4.7), hole
#: 5.6 / 5.4 (6.2 / 5.6; of twelve 5.75 (5.49) at 20); but blurred ones 5.1 / 4.1 (3.8 / 3.7). Fewer miss what was seen:
#: residual / sigma_y of lost pixels 3.8, 2.5, 1.7, 1.2 and 1.0 with 4, 5, 6, 7 and 8
SEVERAL = 8
#: steps of second order
SECOND = DPMSolver(stochastic=True)


def for_pictures(
    measurement: Measurement, calls: int, restore: bool = False, gradient: bool = False
) -> tuple[Choice, Sampler, int]:
    """Guidance, sampler and steps of a model on pictures, for so many model calls; a backward pass is one.

    Linear damage is sampled in steps of second order, which cost no more than those of first order; by moment matching
    where pixels were measured, a gradient is at hand and there are calls for it.

    Where much of the picture is gone, a gradient is taken in the first half as far as it reaches (`automatic`). Without
    one each step is taken twice, time travel with jump 1 on half as many levels, with DiffPIR as a draw, which puts
    more noise back where nothing was seen.

    Args:
        restore, gradient: as in `automatic`.
    """
    gradient = gradient and calls > FEW
    chosen = automatic(measurement, calls, False, restore, gradient)
    if restore or calls <= FEW or not measurement.operator.linear:
        return chosen, GuidedDDIM(1.0), calls
    wide = deep(measurement) >= WIDE
    if wide and gradient:
        return chosen, GuidedDDIM(1.0), with_gradients(calls)
    if wide:
        drawn = DiffPIR(measurement, 1.0, PHOTOS, smooth=True, draw=True, timing=Timing(end=DRAWN))
        blocks = (drawn, replace(chosen.blocks[0], timing=Timing(start=DRAWN)))
        words = "DiffPIR as a draw, each step twice, because much of the picture is gone"
        return Choice(blocks, words, "Pi-GDM, with a gradient"), GuidedDDIM(1.0, repeats=2, jump=1), calls // 2
    number = calls // COST
    if gradient and measurement.operator.local and number >= SEVERAL:
        words = "Moment Matching (MMPS), because pixels were measured, and there are many steps"
        return Choice((MMPS(measurement, PRODUCTS),), words, chosen.blocks[0].label), SECOND, number
    return chosen._replace(runner_up="Moment Matching (MMPS), with a gradient"), SECOND, calls


def with_gradients(calls: int) -> int:
    """How many steps as many calls are, when those up to EARLY are two."""
    return max(n for n in range(1, calls + 1) if n + sum(i / n < EARLY for i in range(n)) <= calls)
