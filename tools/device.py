"""A CUDA device without a card: what would run on it, and how often it would have to be waited for.

Tensors are torch's fake ones, which know shape, dtype and device and hold nothing. Work that mixes devices raises, as
with a card. Numbers that are asked for are answered with 1 (True), so that loops run to their cap. There is no backward
pass: autograd wants a driver for it.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: one for all, since caches outlive a use of the device
_FAKE = FakeTensorMode(allow_non_fake_inputs=True)
_aten = torch.ops.aten
#: asks for memory, or looks at it in another way
_NOT_KERNELS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "_unsafe_view"}
_NOT_KERNELS |= {"detach", "alias", "_reshape_alias", "device"}
_NOT_KERNELS |= {"resolve_conj", "resolve_neg"}


class FakeDevice(TorchDispatchMode):
    """Counts what runs on a device that does not exist; a context manager.

    Args:
        kind: "cuda", or "cpu" where a backward pass is counted, whose kernels are the same.

    Attributes:
        kernels: by the operation's name.
        waits: what the device was waited for, by the operation's name.
    """

    def __init__(self, kind: str = "cuda"):
        super().__init__()
        self.device = torch.device(kind, 0) if kind == "cuda" else torch.device(kind)
        self.kernels, self.waits = Counter(), Counter()
        self._stack = ExitStack()

    def __enter__(self) -> FakeDevice:
        self._stack.enter_context(_FAKE)
        return super().__enter__()

    def __exit__(self, *exc_info) -> None:
        super().__exit__(*exc_info)
        self._stack.close()

    def clear(self) -> None:
        """Forgets what was counted."""
        self.kernels.clear()
        self.waits.clear()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name.split("::")[-1]
        if name == "_local_scalar_dense":
            self.waits.update([name] * self._here(args[0]))
            try:
                return function(*args, **kwargs)  # numbers that were written down are known
            except DataDependentOutputException:
                return {torch.bool: True}.get(args[0].dtype, 1.0 if args[0].is_floating_point() else 1)
        result = function(*args, **kwargs)
        if function.is_view or name in _NOT_KERNELS:
            return result
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if any(map(self._here, results)):
            self.kernels[name] += 1
        if name in ("_to_copy", "copy_"):
            self.waits.update([name] * self._blocks(args[1 if name == "copy_" else 0], results[0], args, kwargs))
        return result

    def _here(self, x: Tensor) -> bool:
        return x.device.type == self.device.type

    def _blocks(self, source: Tensor, result: Tensor, args: tuple, kwargs: dict) -> bool:
        """Whether a copy goes from one device to another and is waited for; a single number goes with the kernel."""
        if source.device.type == result.device.type or (self._here(result) and source.ndim == 0):
            return False
        return not (kwargs.get("non_blocking", False) or (len(args) > 2 and args[2]))
