"""Guidance inside a MODEL, so that every sampler of the host samples the posterior.

Two of the host's wrappers on a clone of the model: one around the sampler sets a run up and takes it down, one around
the guider's prediction (after CFG, ControlNet, LoRA, hooks and regional prompts) turns x0_hat into x0_hat(y).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from weakref import WeakKeyDictionary

import comfy.patcher_extension
import torch
from torch import Tensor

from ..diffusion.level import Level
from .autograd.gradients import static_clone
from .run import ATTACHMENT, Guide, GuidedRun, attached_guides, refuse_transitions
from .sampler import GuidedSampler

#: the run of each guider that is sampling now, its SIGMAS, and how its sampler takes a change
_RUNS: WeakKeyDictionary = WeakKeyDictionary()


def apply_guidance(patcher, guides: Sequence[Guide]):
    """A clone of the MODEL whose prediction listens to `guides`, on top of those it already has.

    Raises:
        Refusal: for methods that change the step itself.
    """
    refuse_transitions(guides)
    wrappers = comfy.patcher_extension.WrappersMP
    clone = static_clone(patcher) if any(guide.block.jacobian for guide in guides) else patcher.clone()
    # an attachment and not a model option: options are copied deeply with every clone, VAE and pictures included
    clone.set_attachments(ATTACHMENT, (*attached_guides(clone), *guides))
    for kind, wrapper in ((wrappers.SAMPLER_SAMPLE, _around_sampler), (wrappers.PREDICT_NOISE, _around_prediction)):
        clone.remove_wrappers_with_key(kind, ATTACHMENT)
        clone.add_wrapper_with_key(kind, ATTACHMENT, wrapper)
    return clone


def _around_sampler(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
    """Sets the run up after the model is loaded, and puts everything back however the sampler ends."""
    if isinstance(executor.class_obj, GuidedSampler):  # it listens to these guides by itself
        return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)
    with GuidedRun(guider, attached_guides(guider.model_patcher), noise) as run:
        steps = sigmas.tolist()
        steps += [0.0] if len(steps) == 1 else []  # some samplers ask all the same
        _RUNS[guider] = (run, steps, StepChange(executor.class_obj))
        try:
            return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)
        finally:
            del _RUNS[guider]


def _around_prediction(executor, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed=None):
    """x0_hat(y) in place of x0_hat."""
    if executor.class_obj not in _RUNS:
        return executor(x, timestep, model_options or {}, seed)
    run, sigmas, step_change = _RUNS[executor.class_obj]
    sigma = float(timestep[0])
    index = step_of(sigma, sigmas)
    t, top, s = (run.level(value) for value in (sigma, sigmas[index], sigmas[index + 1]))

    def predict_x0(x_t: Tensor, level: Tensor, options: dict) -> Tensor:
        return executor(x_t, level, options, seed)

    if not run.blocks:
        return predict_x0(x, timestep, model_options or {})
    with torch.no_grad():
        u = run.space.to_native(x, t.alpha)
        progress = index / (len(sigmas) - 1)
        x0, shift, _ = run.estimate(predict_x0, u, t, s, progress, index, model_options)
        return run.space.to_model(x0 + step_change(shift, top, s), 1.0)


def step_of(sigma: float, sigmas: Sequence[float]) -> int:
    """The step i of SIGMAS that an evaluation at sigma belongs to: from sigma_i on, short of sigma_{i+1}.

    Samplers also evaluate between two entries, and at entries that they have rounded: by a thousandth at most, and by
    less than a quarter of the step. SIGMAS may also rise; of equal entries the last one counts, whose step goes on.
    """
    way = math.copysign(1.0, sigmas[0] - sigmas[-1])
    return sum(
        way * (sigma - entry) <= min(1e-3 * entry, abs(before - entry) / 4) for before, entry in pairwise(sigmas[:-1])
    )


class StepChange:
    """The change of x0_hat that moves a step t to s of the host's sampler by norm_s * shift.

    A deterministic step of first order is x_s = (alpha_s - alpha_t sigma_s / sigma_t) x0 + ..., so the recipe's shift
    is divided by that coefficient. DPM-Solver++ 2M takes x0 + b (x0 - x0_before) with b = h / (2 h_before) and
    h = log(sigma_t / sigma_s), where the change c_before of the last step would come back; it is set off:

        c = (norm_s shift / (...) + b c_before) / (1 + b)

    Both are exact. Other samplers of higher order, and those with fresh noise, take about the same share of it.

    Args:
        sampler: the host's SAMPLER.
    """

    def __init__(self, sampler):
        function = getattr(sampler, "sampler_function", None)
        self._extrapolates = getattr(function, "__name__", "") == "sample_dpmpp_2m"
        self._before, self._h_before = 0.0, math.inf

    def __call__(self, shift: Tensor | float, t: Level, s: Level) -> Tensor | float:
        change = shift * (s.norm / (s.alpha - t.alpha * s.sigma / t.sigma))
        if self._extrapolates and s.sigma:
            h = math.log(t.sigma / s.sigma)
            bend = h / (2 * self._h_before)
            change = (change + bend * self._before) / (1 + bend)
            self._before, self._h_before = change, h
        return change
