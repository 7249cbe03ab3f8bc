"""Arguments of torch functions that a graph may keep.

What a network meets on its way may be unfit for that: patches hold weights and embeddings made under inference mode,
which autograd refuses to save; kernels write into `out=`, which it refuses to follow; and weights that do not fit on
the device pass through one buffer after the other, which is full of other weights by the time of the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .gradients import normal


def call(func: Callable, args: tuple, kwargs: dict[str, Any], copies: bool = False) -> Any:
    """func(*args, **kwargs) with arguments that may be kept.

    Args:
        copies: whether tensors that are no parameters may be overwritten before the backward pass.
    """
    if not (copies or "out" in kwargs or _hold_inference(args) or (kwargs and _hold_inference(kwargs.values()))):
        return func(*args, **kwargs)  # as nearly always
    if torch.is_inference_mode_enabled() or func in _QUESTIONS:
        return func(*args, **kwargs)
    into = args[0] if args and _writes(func) else kwargs.get("out")
    if "out" in kwargs and isinstance(into, Tensor) and _take_gradients(args):
        others = {key: value for key, value in kwargs.items() if key != "out"}
        return into.copy_(call(func, args, others, copies))
    copies = copies and _take_gradients((*args, *kwargs.values()))

    def fit(value: Any) -> Any:
        if type(value) in (list, tuple):
            return type(value)(map(fit, value))
        return value if value is into or not isinstance(value, Tensor) else keepable(value, copies)

    args, kwargs = tuple(map(fit, args)), {key: fit(value) for key, value in kwargs.items()}
    if not isinstance(into, Tensor) or not into.is_inference() or _take_gradients((*args, *kwargs.values())):
        return func(*args, **kwargs)  # torch refuses to write a gradient into an inference tensor
    alias = normal(into)
    if "out" in kwargs:
        kwargs["out"] = alias
    else:
        args = (alias, *args[1:])
    result = func(*args, **kwargs)
    return into if result is alias else result


def keepable(tensor: Tensor, copies: bool = False) -> Tensor:
    """A tensor that stays as it is until the backward pass; parameters do, parts of a buffer need not."""
    if isinstance(tensor, nn.Parameter) or tensor.requires_grad:
        return normal(tensor)
    if copies or tensor.is_inference():
        return tensor.clone()
    return tensor


def _writes(func: Callable) -> bool:
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _hold_inference(values: Iterable[Any]) -> bool:
    for value in values:
        if isinstance(value, Tensor):
            if value.is_inference():
                return True
        elif type(value) in (list, tuple) and _hold_inference(value):
            return True
    return False


def _take_gradients(values: Iterable[Any]) -> bool:
    for value in values:
        if isinstance(value, Tensor):
            if value.requires_grad:
                return True
        elif type(value) in (list, tuple) and _take_gradients(value):
            return True
    return False


#: what is asked of a tensor itself, and the ways to others on the same storage, which stay what they are
_QUESTIONS: frozenset[Callable] = frozenset({Tensor.is_inference, Tensor.untyped_storage, Tensor.data_ptr, Tensor.set_})
