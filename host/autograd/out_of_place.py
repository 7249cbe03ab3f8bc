"""`a += b` makes a new tensor, where networks write into tensors that the backward pass needs.

`torch.autograd.graph.allow_mutation_on_saved_tensors` would do for tensors that autograd saves. It does not for the
inputs of checkpointed blocks, and with torch 2.14 it stops at functions that write into `out=` by position.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from opcode import opname

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

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
