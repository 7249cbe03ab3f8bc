"""Gradients through the host's models.

Every prompt runs under `torch.inference_mode()`, so the weights are inference tensors, which autograd refuses to save.
While a run needs gradients each of them is replaced by a normal tensor on the same storage (no copy, no change to
what other runs see), and the very objects that were there are put back afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import comfy.ldm.modules.attention
import torch
from torch import Tensor, nn


def normal(tensor: Tensor) -> Tensor:
    """A tensor outside inference mode on the same storage; normal tensors come back as they are."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
        return alias


def normal_tree(value: Any) -> Any:
    """`normal` for all tensors in nested dicts, lists, tuples and the host's conditioning objects."""
    if isinstance(value, Tensor):
        return normal(value) if type(value) is Tensor else value
    if isinstance(value, dict):
        return {key: normal_tree(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(normal_tree(item) for item in value)
    if type(value).__module__ == "comfy.conds":
        return value._copy_with(normal_tree(value.cond))
    return value


class GradientScope:
    """Keeps the weights of some modules differentiable-through; a context manager.

    `refresh` is called before each pass, since the host may have put new weights in place meanwhile (hooks, LoRA
    schedules, weights moved between devices).
    """

    def __init__(self, modules: Iterable[nn.Module]):
        self._modules = list(modules)
        self._replaced: list[tuple[dict, str, Any, Any]] = []

    def refresh(self) -> None:
        for root in self._modules:
            for module in root.modules():
                for table in (module._parameters, module._buffers):
                    for name, tensor in table.items():
                        if tensor is not None and tensor.is_inference():
                            self._replace(table, name, tensor)

    def _replace(self, table: dict, name: str, tensor: Tensor) -> None:
        with torch.inference_mode(False):
            alias = normal(tensor.data if isinstance(tensor, nn.Parameter) else tensor)
            if isinstance(tensor, nn.Parameter):
                alias = nn.Parameter(alias, requires_grad=False)
        table[name] = alias
        self._replaced.append((table, name, tensor, alias))

    def __enter__(self) -> GradientScope:
        return self

    def __exit__(self, *exc_info) -> None:
        for table, name, original, alias in reversed(self._replaced):
            if table.get(name) is alias:  # the host may have replaced ours, then its word stands
                table[name] = original
        self._replaced.clear()


def differentiable_attention(func, q, k, v, heads, *args, **kwargs):
    """Scaled dot product attention, in place of kernels that autograd cannot follow."""
    return comfy.ldm.modules.attention.attention_pytorch(q, k, v, heads, *args, **kwargs)


def differentiable_options(model_options: dict) -> dict:
    """`model_options` with attention that has a gradient; the caller's dict is not changed."""
    transformer_options = dict(model_options.get("transformer_options", {}))
    transformer_options["optimized_attention_override"] = differentiable_attention
    return {**model_options, "transformer_options": transformer_options}
