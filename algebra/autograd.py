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


def pulled_back(value: Tensor, leaf: Tensor, v: Tensor, keep: bool = False, apart: bool = False) -> Tensor:
    """J^T v of a traced value, whatever the size of v: networks in half precision neither overflow nor lose it.

    J^T is linear, so that c J^T (v / c) is the same. c is a power of two, which changes no digit.

    Args:
        v: the shape of value.
        keep: whether the graph is needed again; without it the pass frees the graph as it goes.
        apart: whether sample i of the value depends on sample i of the leaf only, so that each has a c of its own.
    """
    with torch.inference_mode(False):
        v = v.detach().clone() if v.is_inference() else v.detach()
        scale = magnitude(v.reshape(len(v) if apart else 1, -1))
        (gradient,) = torch.autograd.grad(value, leaf, v / _beside(scale, v), retain_graph=keep)
        return gradient * _beside(scale, gradient)


def _beside(scale: Tensor, x: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (x.ndim - 1)) if x.ndim else scale.view(())


def magnitude(v: Tensor) -> Tensor:
    """The power of two at or below the largest number of each row, `B N` to `B`."""
    largest = v.abs().amax(1).float().clamp(2.0**-126, 2.0**126)
    exponent = largest.view(torch.int32) & 0x7F800000  # the number without its fraction
    return exponent.view(torch.float32).to(v.real.dtype)
