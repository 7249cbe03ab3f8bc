"""Copies of objects: on another device, in another precision, of some samples only."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cached_property
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


def tensors(holder: object) -> Iterator[Tensor]:
    """The tensors of `holder` and of the movable ones that it holds: what it depends on."""
    for value in vars(holder).values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, Tensor):
                yield item
            elif hasattr(item, "to") and hasattr(item, "__dict__"):
                yield from tensors(item)


def taken(holder: Movable, index: Tensor, batch: int) -> Movable:
    """A shallow copy of `holder` of some of its samples; what it worked out of all of them is forgotten.

    Args:
        index: the samples, int64; one may come several times, as particles do.
        batch: how many there are: tensors with so many rows are cut, and what can take samples by itself.
    """
    clone = copy.copy(holder)
    for name, value in vars(holder).items():
        if isinstance(getattr(type(holder), name, None), cached_property):
            del vars(clone)[name]
            continue
        if isinstance(value, Tensor):
            value = value[index.to(value.device)] if value.ndim and len(value) == batch > 1 else value
        elif isinstance(value, (tuple, list)) and any(hasattr(item, "take") for item in value):
            value = type(value)(item.take(index) if hasattr(item, "take") else item for item in value)
        elif hasattr(value, "take"):
            value = value.take(index)
        object.__setattr__(clone, name, value)
    return clone
