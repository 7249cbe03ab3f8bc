"""Guidance inside a MODEL, so that every sampler of the host samples the posterior.

Two of the host's wrappers on a clone of the model: one around the sampler sets a run up and takes it down, one around
the guider's prediction (after CFG, ControlNet, LoRA, hooks and regional prompts) turns x0_hat into x0_hat(y).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from weakref import WeakKeyDictionary

import comfy.patcher_extension
import torch
from torch import Tensor

from ..algebra.streams import Streams
from .autograd.gradients import static_clone
from .run import ATTACHMENT, Guide, GuidedRun, attached_guides, refuse_transitions
from .sampler import LISTENING, streams
from .step_list import require_steps
from .steps import StepChange

#: of each guider that is sampling now
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


class _Applied:
    """The guides of a MODEL in one run of a sampler; they start with the first prediction.

    Args:
        stack: what ends with the run.
    """

    def __init__(self, guider, sampler, sigmas: Tensor, noise: Tensor, seed: int, stack: ExitStack):
        self._guider, self._sampler, self._noise, self._seed, self._stack = guider, sampler, noise, seed, stack
        self.sigmas = sigmas.tolist()
        self.sigmas += [0.0] if len(sigmas) == 1 else []  # some samplers ask all the same
        self._host: GuidedRun | None = None

    def start(self) -> tuple[GuidedRun, StepChange, Streams]:
        if self._host is None:
            guides = attached_guides(self._guider.model_patcher)
            self._host = self._stack.enter_context(GuidedRun(self._guider, guides, self._noise))
            self._step_change = StepChange(self._sampler, self.sigmas, self._guider, self._host.level)
            self._draw = streams(self._seed, self._noise)
        return self._host, self._step_change, self._draw


def _around_sampler(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
    """Puts everything back however the sampler ends."""
    require_steps(sigmas.tolist())
    with ExitStack() as stack:
        _RUNS[guider] = _Applied(guider, executor.class_obj, sigmas, noise, extra_args.get("seed") or 0, stack)
        try:
            return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)
        finally:
            del _RUNS[guider]


def _around_prediction(executor, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed=None):
    """x0_hat(y) in place of x0_hat."""
    guider = executor.class_obj
    if guider not in _RUNS or guider in LISTENING:  # our own samplers listen by themselves, wrapped by another or not
        return executor(x, timestep, model_options or {}, seed)
    sigmas = _RUNS[guider].sigmas
    host, step_change, draw = _RUNS[guider].start()
    if not host.blocks:
        return executor(x, timestep, model_options or {}, seed)

    def predict(x_t: Tensor, level: Tensor, options: dict) -> Tensor:
        return executor(x_t, level, options, seed)

    run = host.run(predict, sigmas, draw, model_options)
    sigma = float(timestep[0])
    index = step_of(sigma, sigmas)
    t, s = host.level(sigma), run.levels[index + 1]
    with torch.no_grad():
        x0, shift, _ = run.guided(host.space.to_native(x, t.alpha), t, s, index)
        host.require_finite(x0 + shift, t)
        return host.space.to_model(x0 + step_change(shift, sigma, run.levels[index], s), 1.0)


def step_of(sigma: float, sigmas: Sequence[float]) -> int:
    """The step i of SIGMAS that an evaluation at sigma belongs to: from sigma_i on, short of sigma_{i+1}.

    Samplers also evaluate between two entries, and at entries that they have rounded: by a thousandth at most, and by
    less than a quarter of the step. SIGMAS may also rise; of equal entries the last one counts, whose step goes on.
    """
    way = math.copysign(1.0, sigmas[0] - sigmas[-1])
    return sum(
        way * (sigma - entry) <= min(1e-3 * entry, abs(before - entry) / 4) for before, entry in pairwise(sigmas[:-1])
    )
