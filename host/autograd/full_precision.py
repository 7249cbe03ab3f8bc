"""Products in full precision while a gradient is made.

Layers of the host that quantise what they are given (fp8, fp4) multiply by kernels that autograd does not know: their
output would carry no gradient, and what is left of it would follow the skip connections only. Their other way, with
weights in the precision of their input, has a gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import comfy.ops
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def full_precision_products(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Lets the layers of some modules multiply by dequantised weights."""
    changed = []
    try:
        for layer in (layer for module in modules for layer in module.modules()):
            for name, value in _otherwise(layer).items():
                changed.append((vars(layer), name, vars(layer).get(name, changed)))
                vars(layer)[name] = value
        yield
    finally:
        for table, name, before in reversed(changed):
            if before is changed:  # there was none
                del table[name]
            else:
                table[name] = before


def _otherwise(layer: nn.Module) -> dict[str, Any]:
    """The attributes that lead a layer of the host around quantised products."""
    if hasattr(layer, "_full_precision_mm"):  # hosts since 0.3.68
        return {"_full_precision_mm": True}
    fp8 = getattr(comfy.ops, "fp8_ops", None)
    if hasattr(layer, "scale_weight") or (fp8 is not None and isinstance(layer, fp8.Linear)):
        return {"forward_comfy_cast_weights": partial(_linear, layer)}
    return {}


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    weight, bias = comfy.ops.cast_bias_weight(layer, x)
    scale = getattr(layer, "scale_weight", None)
    return F.linear(x, weight if scale is None else weight * scale.to(weight), bias)
