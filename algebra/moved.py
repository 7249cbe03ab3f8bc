"""Copies of objects on another device or in another precision."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor

Movable = TypeVar("Movable")


def moved(holder: Movable, device: torch.device | str, dtype: torch.dtype) -> Movable:
    """A shallow copy of `holder` whose tensors (and holders, lists of them) live on `device` in `dtype`."""
    clone = copy.copy(holder)
    for name, value in vars(holder).items():
        if isinstance(value, Tensor):
            value = value.to(device, dtype if value.is_floating_point() else value.dtype)
        elif isinstance(value, (tuple, list)) and any(hasattr(item, "to") for item in value):
            value = type(value)(item.to(device, dtype) if hasattr(item, "to") else item for item in value)
        elif hasattr(value, "to") and hasattr(value, "__dict__"):
            value = value.to(device, dtype)
        object.__setattr__(clone, name, value)
    return clone
