"""Derivatives by automatic differentiation, also under the inference mode in which a host may run everything."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def traced(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf at x, and function(leaf) with its graph. What the function holds must be normal tensors."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        return leaf, function(leaf)


def pulled_back(value: Tensor, leaf: Tensor, v: Tensor, keep: bool = False) -> Tensor:
    """J^T v of a traced value.

    Args:
        v: the shape of value.
        keep: whether the graph is needed again; without it the pass frees the graph as it goes.
    """
    with torch.inference_mode(False):
        v = v.detach().clone() if v.is_inference() else v.detach()
        (gradient,) = torch.autograd.grad(value, leaf, v, retain_graph=keep)
    return gradient
