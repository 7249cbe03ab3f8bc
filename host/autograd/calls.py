"""Model calls that a gradient can pass through.

A wrapper of the host around `apply_model`, handed over with the model options of one guided call. It runs where
ControlNet, LoRA and hooks have done their work, so that what it sees is what the network gets. Layers always save only
what the input's gradient needs (`frozen`); an `Economy` says what else is saved, and how.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext

import comfy.ldm.modules.attention
import comfy.patcher_extension
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .checkpointed import checkpointed_blocks, heavy_blocks
from .economy import Economy
from .frozen import Frozen
from .gradients import GradientScope, exchanged, private_copies
from .out_of_place import OutOfPlace
from .pieces import pieces, take

_KIND = comfy.patcher_extension.WrappersMP.APPLY_MODEL
_KEY = "posterior_gradient"


class DifferentiableCalls:
    """The model options of guided calls.

    Args:
        scope: the weights' scope, refreshed before each call.
        economy: how to save memory; may be changed between calls.
    """

    def __init__(self, scope: GradientScope, economy: Economy):
        self._scope = scope
        self.economy = economy

    def options(self, model_options: dict) -> dict:
        """`model_options` for a call with a gradient; the caller's dict is not changed."""
        transformer_options = dict(model_options.get("transformer_options", {}))
        wrappers = dict(transformer_options.get("wrappers", {}))
        wrappers[_KIND] = {**wrappers.get(_KIND, {}), _KEY: [self._apply_model]}
        transformer_options |= {"wrappers": wrappers, "optimized_attention_override": differentiable_attention}
        return {**model_options, "transformer_options": transformer_options}

    def _apply_model(self, executor, x: Tensor, t: Tensor, *conds, **kwargs) -> Tensor:
        self._scope.refresh()
        model, economy = executor.class_obj, self.economy
        weights = private_copies(model, getattr(model.current_patcher, "hook_backup", ()))
        place = OutOfPlace if economy.out_of_place else nullcontext

        def call(inputs: tuple, named: dict) -> Tensor:
            with ExitStack() as stack:
                stack.enter_context(exchanged(weights))
                stack.enter_context(Frozen())
                stack.enter_context(place())  # the last one, since it looks at who calls
                if economy.checkpoint:
                    stack.enter_context(checkpointed_blocks(heavy_blocks(model.diffusion_model), weights))
                return executor(*inputs, **named)

        inputs = (x, t, *conds)
        if not economy.samples:
            return call(inputs, kwargs)
        batch, outputs = x.shape[0], []
        for piece in pieces(batch, economy.samples, _transformer_options(inputs, kwargs).get("cond_or_uncond")):
            # the containers are made anew within, since networks take entries out of them
            outputs.append(checkpoint(lambda p=piece: call(*take((inputs, kwargs), p, batch)), use_reentrant=False))
        return torch.cat(outputs)


def _transformer_options(inputs: tuple, named: dict) -> dict:
    found = named.get("transformer_options") or (inputs[5] if len(inputs) > 5 else None)
    return found or {}


def differentiable_attention(func, q, k, v, heads, *args, **kwargs):
    """Scaled dot product attention, in place of kernels that autograd cannot follow."""
    return comfy.ldm.modules.attention.attention_pytorch(q, k, v, heads, *args, **kwargs)
