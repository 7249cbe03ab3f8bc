"""Guidance inside a MODEL, so that every sampler of the host samples the posterior.

Two of the host's wrappers on a clone of the model: one around the sampler sets a run up and takes it down, one around
the guider's prediction (after CFG, ControlNet, LoRA, hooks and regional prompts) turns x0_hat into x0_hat(y).
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import comfy.patcher_extension
import torch
from torch import Tensor

from ..guidance.state import Level
from ..operators.errors import Refusal
from .run import Guide, GuidedRun

_KEY = "posterior"
#: the run of each guider that is sampling now, with its SIGMAS
_RUNS: WeakKeyDictionary = WeakKeyDictionary()


def apply_guidance(patcher, guides: Sequence[Guide]):
    """A clone of the MODEL whose prediction listens to `guides`, on top of those it already has.

    Raises:
        Refusal: for methods that change the step itself.
    """
    for guide in guides:
        if guide.block.owns_transition:
            raise Refusal(
                f"{guide.block.label} changes how a step is made, which the host's samplers do not allow; "
                "connect it to the Guided DDIM Sampler instead."
            )
    wrappers = comfy.patcher_extension.WrappersMP
    clone = patcher.clone()
    # an attachment and not a model option: options are copied deeply with every clone, VAE and pictures included
    clone.set_attachments(_KEY, (*(clone.get_attachment(_KEY) or ()), *guides))
    for kind, wrapper in ((wrappers.SAMPLER_SAMPLE, _around_sampler), (wrappers.PREDICT_NOISE, _around_prediction)):
        clone.remove_wrappers_with_key(kind, _KEY)
        clone.add_wrapper_with_key(kind, _KEY, wrapper)
    return clone


def _around_sampler(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
    """Sets the run up after the model is loaded, and puts everything back however the sampler ends."""
    with GuidedRun(guider, guider.model_patcher.get_attachment(_KEY), noise) as run:
        _RUNS[guider] = (run, sigmas.tolist())
        try:
            return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)
        finally:
            del _RUNS[guider]


def _around_prediction(executor, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed=None):
    """x0_hat(y) in place of x0_hat."""
    model_options = model_options or {}
    run, sigmas = _RUNS[executor.class_obj]
    sigma = float(timestep[0])
    below = [value for value in sigmas if value < sigma]
    t, s = run.level(sigma), run.level(below[0] if below else 0.0)
    steps = max(len(sigmas) - 1, 1)
    index = steps - len(below)

    def predict_x0(x_t: Tensor, level: Tensor, options: dict) -> Tensor:
        return executor(x_t, level, options, seed)

    with torch.no_grad():
        u = run.space.to_native(x, t.alpha)
        x0, shift, _ = run.estimate(predict_x0, u, t, s, index / steps, index, model_options)
        return run.space.to_model(x0 + _as_denoised(shift, t, s), 1.0)


def _as_denoised(shift: Tensor | float, t: Level, s: Level) -> Tensor | float:
    """The change of x0_hat that moves a deterministic step t to s by norm_s * shift.

    x_s = (alpha_s - alpha_t sigma_s / sigma_t) x0 + ..., so the recipe's shift is divided by that coefficient.
    """
    return shift * (s.norm / (s.alpha - t.alpha * s.sigma / t.sigma))
