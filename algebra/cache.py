"""What an operator works out once for each picture size, device and precision."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

import torch

Value = TypeVar("Value")


class Cache:
    """The last few values by key; keys name device and dtype.

    Values are made outside inference mode: an operator is often used first in a node that shows a picture, and again
    inside a gradient, where inference tensors are refused.

    Copies of an operator share what they work out on one device. A copy that moves to another device starts with
    nothing: a run works on a copy of its own, so that the device's memory is free again when the run is over, while
    what lies in the machine's memory stays for the next run.

    Args:
        size: how many values are kept.
        device: where they live.
    """

    def __init__(self, size: int = 8, device: torch.device | str = "cpu"):
        self._size, self._device = size, torch.device(device)
        self._values: OrderedDict[Hashable, object] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value], *parameters: torch.Tensor) -> Value:
        """The value of `key`, by `make()` the first time.

        Args:
            parameters: what the value depends on; while a gradient of one of them is wanted nothing is kept.
        """
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
            return make()
        if key not in self._values:
            with torch.inference_mode(False), torch.no_grad():
                self._values[key] = make()
            if len(self._values) > self._size:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]

    def take(self, index: torch.Tensor) -> Cache:
        """That of a copy of the operator for some samples: nothing is known of it yet."""
        return Cache(self._size, self._device)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Cache:
        """That of a copy of the operator on `device`."""
        device = torch.device(device)
        return self if device == self._device else Cache(self._size, device)
