"""Model calls that a gradient can pass through.

A wrapper of the host around `apply_model`, handed over with the model options of one guided call. It runs where
ControlNet, LoRA and hooks have done their work, so that what it sees is what the network gets. Layers always save only
what the input's gradient needs (`frozen`); an `MemoryPlan` says what else is saved, and how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from copy import copy
from dataclasses import replace
from typing import Any

import comfy.ldm.modules.attention
import comfy.patcher_extension
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...algebra.refusal import Refusal
from .checkpointed import checkpointed_blocks, eager, heavy_blocks
from .frozen import Frozen
from .gradients import GradientScope, exchanged, private_copies
from .memory_plan import MemoryPlan
from .out_of_place import OutOfPlace
from .pieces import pieces, take
from .verified import NO_GRADIENT, PARTIAL, doubtful, verify

_KIND = comfy.patcher_extension.WrappersMP.APPLY_MODEL
_KEY = "posterior_gradient"
#: part of the functions of a whole call below which a network has been cut short; skipped layers of guidance
#: methods are a tenth of it
_LEAST = 0.5


class DifferentiableCalls:
    """The model options of guided calls.

    Args:
        scope: the weights' scope, refreshed before each call.
        plan: how to save memory; may be changed between calls.
    """

    def __init__(self, scope: GradientScope, plan: MemoryPlan):
        self._scope = scope
        self.plan = plan
        self._verified = self._verifies = False
        #: functions that one call of the network has called at most
        self._most = 0

    def options(self, model_options: dict) -> dict:
        """`model_options` for a call with a gradient; the caller's dict is not changed."""
        transformer_options = dict(model_options.get("transformer_options", {}))
        wrappers = dict(transformer_options.get("wrappers", {}))
        wrappers[_KIND] = {**wrappers.get(_KIND, {}), _KEY: [self._apply_model]}
        transformer_options |= {"wrappers": wrappers, "optimized_attention_override": differentiable_attention}
        if "easycache" in transformer_options:  # what is taken from a cache has no gradient
            transformer_options["easycache"] = resting(transformer_options["easycache"])
        # the host runs the clones on other devices without gradient
        rest = {key: value for key, value in model_options.items() if key != "multigpu_clones"}
        return {**rest, "transformer_options": transformer_options}

    def verify(self, denoiser: Callable[[Tensor], Tensor], x: Tensor, guider, model_options: dict) -> None:
        """Before the first guided step: refuses a model whose gradient leaves a part of it out.

        Args:
            denoiser: x0_hat of a state `B C H W`, by calls with `model_options`.
            guider: the host's.
            model_options: made by `options`.
        """
        if self._verified:
            return
        if self.plan.copies or doubtful(self._scope.modules, model_options, guider.conds):
            model = guider.inner_model
            dtype = model.manual_cast_dtype or model.get_dtype()
            self._verifies = True
            try:
                verify(denoiser, x, dtype)
            except Refusal:
                if self.plan.copies:
                    raise
                self.plan = replace(self.plan, copies=True)  # a buffer may be written to behind autograd's back
                verify(denoiser, x, dtype)
            finally:
                self._verifies = False
        self._verified = True

    def _apply_model(self, executor, x: Tensor, t: Tensor, *conds, **kwargs) -> Tensor:
        if not torch.is_grad_enabled() and not self._verifies:
            raise Refusal(NO_GRADIENT)  # something has switched it off on the way here
        self._scope.refresh()
        model, plan = executor.class_obj, self.plan
        weights = private_copies(model, getattr(model.current_patcher, "hook_backup", ()))
        place = OutOfPlace if plan.out_of_place else nullcontext

        def call(inputs: tuple, named: dict) -> Tensor:
            with ExitStack() as stack:
                stack.enter_context(exchanged(weights))
                stack.enter_context(eager())
                stack.enter_context(requires_gradient(model.diffusion_model))
                frozen = stack.enter_context(Frozen(plan.copies))
                stack.enter_context(place())  # the last one, since it looks at who calls
                if plan.checkpoint:
                    units = heavy_blocks(model.diffusion_model)
                    stack.enter_context(checkpointed_blocks(units, weights, plan.copies))
                output = executor(*inputs, **named)
            if torch.is_grad_enabled():
                self._require_whole(frozen.calls)
            return output

        inputs = (x, t, *conds)
        if not plan.samples:
            return call(inputs, kwargs)
        batch, outputs = x.shape[0], []
        for piece in pieces(batch, plan.samples, _transformer_options(inputs, kwargs).get("cond_or_uncond")):
            # the containers are made anew within, since networks take entries out of them
            outputs.append(checkpoint(lambda p=piece: call(*take((inputs, kwargs), p, batch)), use_reentrant=False))
        return torch.cat(outputs)

    def _require_whole(self, calls: int) -> None:
        """Refuses a step that does without most of the network, as caches of other packs make it."""
        self._most = max(self._most, calls)
        if calls < _LEAST * self._most:
            raise Refusal(PARTIAL)


@contextmanager
def requires_gradient(network: nn.Module) -> Iterator[None]:
    """Refuses a network whose output carries no gradient though its input does."""

    def check(network: nn.Module, args: tuple, output: Any) -> None:
        outputs = output if isinstance(output, (list, tuple)) else (output,)
        tensors = [each for each in outputs if isinstance(each, Tensor)]
        if torch.is_grad_enabled() and tensors and not any(each.requires_grad for each in tensors):
            raise Refusal(NO_GRADIENT)

    if not isinstance(network, nn.Module):  # an engine of its own; `verify` finds it out
        yield
        return
    handle = network.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()


def resting(cache: Any) -> Any:
    """The host's EasyCache or LazyCache, past its last step."""
    cache = copy(cache)
    cache.is_past_end_timestep = lambda sigma: True
    return cache


def _transformer_options(inputs: tuple, named: dict) -> dict:
    found = named.get("transformer_options") or (inputs[5] if len(inputs) > 5 else None)
    return found or {}


def differentiable_attention(func, q, k, v, heads, *args, **kwargs):
    """Scaled dot product attention, in place of kernels that autograd cannot follow."""
    return comfy.ldm.modules.attention.attention_pytorch(q, k, v, heads, *args, **kwargs)
