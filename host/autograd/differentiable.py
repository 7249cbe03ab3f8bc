"""Model calls that a gradient can pass through, and that save memory where they have to.

A wrapper of the host around `apply_model`, handed over with the model options of one guided call. It runs where
ControlNet, LoRA and hooks have done their work, so that what it sees is what the network gets. Layers always save only
what the input's gradient needs (`frozen`); besides there are

    out of place    `a += b` makes a new tensor, where networks write into tensors that the backward pass needs
    checkpointed    blocks keep their inputs only and run again in the backward pass (Chen et al. 2016,
                    https://arxiv.org/abs/1604.06174), those of attention if there are many
    in pieces       samples go one after the other; their losses are independent, so the gradient is the same
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from opcode import opname
from typing import Any

import comfy.ldm.modules.attention
import comfy.patcher_extension
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from .frozen import Frozen
from .gradients import GradientScope, exchanged, private_copies

_KIND = comfy.patcher_extension.WrappersMP.APPLY_MODEL
_KEY = "posterior_gradient"
#: latent pixels; 512 pixels of most VAEs
TILE = 64


@dataclass(frozen=True)
class Economy:
    """How a gradient pass is made.

    Args:
        out_of_place: replace augmented assignments; always so with checkpoints, whose second run would start from
            overwritten inputs.
        checkpoint: keep block inputs only.
        decoder: the same for a VAE, which saves less for more time.
        tile: side of the tiles in which the VAE is decoded then, latent pixels; 0 for the whole picture.
        samples: at most so many samples at a time, 0 for all.
    """

    out_of_place: bool = False
    checkpoint: bool = False
    samples: int = 0
    decoder: bool = False
    tile: int = 0

    def after(self, error: RuntimeError, batch: int, decodes: bool = False) -> Economy | None:
        """What to try next when a pass has failed with `error`, None when nothing is left.

        Args:
            decodes: whether the gradient passes through a VAE.
        """
        if "modified by an inplace operation" in str(error) and not self.out_of_place:
            return replace(self, out_of_place=True)
        if not is_out_of_memory(error):
            return None
        if not self.checkpoint:
            return replace(self, out_of_place=True, checkpoint=True)
        if decodes and not self.decoder:
            return replace(self, decoder=True)
        if decodes and not self.tile:
            return replace(self, tile=TILE)
        samples = (self.samples or batch) // 2
        return replace(self, samples=samples) if samples else None


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


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


def pieces(batch: int, samples: int, kinds: list[int] | None) -> list[slice]:
    """Slices of at most so many samples that do not mix the kinds of conditioning (positive, negative ...)."""
    each = batch // max(len(kinds or ()), 1)
    return [
        slice(start + i, start + min(i + samples, each))
        for start in range(0, batch, each)
        for i in range(0, each, samples)
    ]


def take(value: Any, piece: slice, batch: int) -> Any:
    """The piece of all tensors with the batch in front, in nested containers; the lists that the host keeps for each
    kind of conditioning are cut to the piece's kind."""
    if isinstance(value, Tensor):
        return value[piece] if value.ndim and value.shape[0] == batch else value
    if isinstance(value, dict):
        cut = {key: take(item, piece, batch) for key, item in value.items()}
        kinds = value.get("cond_or_uncond")
        if kinds:
            kind = piece.start * len(kinds) // batch
            cut.update({key: value[key][kind : kind + 1] for key in ("cond_or_uncond", "uuids") if key in value})
        return cut
    if type(value) in (list, tuple):
        return type(value)(take(item, piece, batch) for item in value)
    return value


def differentiable_attention(func, q, k, v, heads, *args, **kwargs):
    """Scaled dot product attention, in place of kernels that autograd cannot follow."""
    return comfy.ldm.modules.attention.attention_pytorch(q, k, v, heads, *args, **kwargs)


_AUGMENTED: dict[Callable, Callable] = {
    Tensor.add_: torch.add,
    Tensor.sub_: torch.sub,
    Tensor.mul_: torch.mul,
    Tensor.div_: torch.div,
}


class OutOfPlace(TorchFunctionMode):
    """`a += b` and its like give a new tensor where a gradient is kept.

    Python assigns what the operation returns, so that nothing else has to change. `a.add_(b)` looks the same to torch
    but nobody takes what it returns; the bytecode tells them apart.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        other = _AUGMENTED.get(func)
        if other is not None and torch.is_grad_enabled() and _is_augmented(sys._getframe(1)):
            return other(*args).to(args[0].dtype)
        return func(*args, **(kwargs or {}))


def _is_augmented(frame) -> bool:
    """Whether a frame stands at an augmented assignment."""
    code, at = frame.f_code.co_code, frame.f_lasti
    name = opname[code[at]]
    return name.startswith("INPLACE_") or (name == "BINARY_OP" and 13 <= code[at + 1] <= 25)


def blocks(network: nn.Module) -> list[nn.Module]:
    """The modules that a network is stacked from: the items of its lists and sequences, rows of blocks opened."""
    rows = [child for child in network.children() if isinstance(child, (nn.ModuleList, nn.Sequential))]
    return [block for row in rows for block in _opened(row)]


def heavy_blocks(network: nn.Module) -> list[nn.Module]:
    """The blocks to checkpoint.

    A residual block of convolutions holds two tensors of its size, since its layers are lean; one of attention and
    feed-forward holds about 17 and takes no more time. Where the latter have a good part of the weights only they run
    again. In SD1.5 that frees 83 % of the graph, all blocks 88 % for two and a half times the time.
    """
    every = blocks(network)
    attention = [block for block in every if not any(map(_looks_around, block.modules()))]
    return attention if _weights(attention) > 0.25 * _weights(every) else every


def _looks_around(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1


def _weights(modules: Iterable[nn.Module]) -> int:
    return sum(weight.numel() for module in modules for weight in module.parameters())


def _opened(row: nn.ModuleList | nn.Sequential) -> Iterator[nn.Module]:
    for item in row:
        inner = [part for part in item.children() if isinstance(part, nn.ModuleList) and len(part) > 1]
        if isinstance(item, (nn.ModuleList, nn.Sequential)):
            yield from _opened(item)
        elif inner:
            for part in inner:
                yield from _opened(part)
        elif next(item.children(), None) is not None:
            yield item


class _SecondRun:
    """Some weights in place, and out of place; entered anew by each backward pass, of which a step may make several."""

    def __init__(self, weights: list[tuple]):
        self._weights = weights

    def __enter__(self) -> None:
        self._stack = ExitStack()
        self._stack.enter_context(exchanged(self._weights))
        self._stack.enter_context(Frozen())
        self._stack.enter_context(OutOfPlace())

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)


@contextmanager
def checkpointed_blocks(units: Iterable[nn.Module], weights: list[tuple]) -> Iterator[None]:
    """Some modules run checkpointed; `weights` are in place in their second run as well."""
    units = list(units)

    def wrapped(forward: Callable) -> Callable:
        def call(*args, **kwargs):
            # networks note their progress in the options, so that the second run needs them as they are now
            args = [dict(value) if isinstance(value, dict) else value for value in args]
            kwargs = {key: dict(value) if isinstance(value, dict) else value for key, value in kwargs.items()}
            return checkpoint(
                forward, *args, use_reentrant=False, preserve_rng_state=False,
                context_fn=lambda: (nullcontext(), _SecondRun(weights)), **kwargs,
            )  # fmt: skip

        return call

    before = [vars(unit).get("forward") for unit in units]
    for unit in units:
        vars(unit)["forward"] = wrapped(unit.forward)
    try:
        yield
    finally:
        for unit, forward in zip(units, before, strict=True):
            if forward is None:
                del unit.forward
            else:
                vars(unit)["forward"] = forward
