"""Blocks that keep their inputs only and run again in the backward pass (Chen et al. 2016,
https://arxiv.org/abs/1604.06174), those of attention if there are many."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .frozen import Frozen
from .gradients import exchanged
from .out_of_place import OutOfPlace


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


def eager() -> AbstractContextManager:
    """Compiled networks run as they are written: what is compiled knows nothing of lean layers and blocks."""
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


class _SecondRun:
    """Some weights in place, and out of place; entered anew by each backward pass, of which a step may make several."""

    def __init__(self, weights: list[tuple], copies: bool):
        self._weights, self._copies = weights, copies

    def __enter__(self) -> None:
        self._stack = ExitStack()
        self._stack.enter_context(exchanged(self._weights))
        self._stack.enter_context(eager())
        self._stack.enter_context(Frozen(self._copies))
        self._stack.enter_context(OutOfPlace())

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)


@contextmanager
def checkpointed_blocks(units: Iterable[nn.Module], weights: list[tuple], copies: bool = False) -> Iterator[None]:
    """Some modules run checkpointed; `weights` are in place in their second run as well; `copies` as in `Frozen`."""
    units = list(units)

    def wrapped(forward: Callable) -> Callable:
        def call(*args, **kwargs):
            # networks note their progress in the options, so that the second run needs them as they are now
            args = [dict(value) if isinstance(value, dict) else value for value in args]
            kwargs = {key: dict(value) if isinstance(value, dict) else value for key, value in kwargs.items()}
            return checkpoint(
                forward, *args, use_reentrant=False, preserve_rng_state=False,
                context_fn=lambda: (nullcontext(), _SecondRun(weights, copies)), **kwargs,
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
