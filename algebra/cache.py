"""What an operator works out once for each picture size, device and precision."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

import torch

Value = TypeVar("Value")


class Cache:
    """The last few values by key; shared by moved copies of an operator, so keys name device and dtype.

    Values are made outside inference mode: an operator is often used first in a node that shows a picture, and again
    inside a gradient, where inference tensors are refused.
    """

    def __init__(self, size: int = 8):
        self._size = size
        self._values: OrderedDict[Hashable, object] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of `key`, by `make()` the first time."""
        if key not in self._values:
            with torch.inference_mode(False), torch.no_grad():
                self._values[key] = make()
            if len(self._values) > self._size:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]
