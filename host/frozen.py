"""Graphs of networks whose weights take no gradient.

Autograd saves for all gradients that a layer could have. With the weights frozen most of it is not needed:

    convolution            is linear in its input, whose gradient W^T g needs the weight only
    SiLU after group norm  its input is the norm's output, which is made again in the backward pass from the norm's own
                           input, saved by the norm in any case
    ReLU                   one byte for each number says whether its gradient passes

So a block of norm, SiLU and convolution keeps one tensor instead of three, with the same values and gradients. Making
the norm's output again is cheap: what costs time are the convolutions, and none of them runs twice.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, dilation, groups) -> Tensor:
        y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        ctx.save_for_backward(weight)
        ctx.sizes, ctx.geometry = (x.shape[2:], y.shape[2:]), (_pair(stride), _pair(padding), _pair(dilation), groups)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        # rows and columns at the end that no window has reached
        rest = [
            size - ((seen - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1)
            for i, (size, seen) in enumerate(zip(*ctx.sizes, strict=True))
        ]
        lifted = F.conv_transpose2d(gradient, weight, None, stride, padding, rest, groups, dilation)
        return lifted, *[None] * 6


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value) * (2 // len(value))


class _SiLUOfNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, inplace: bool, x: Tensor, groups: int, weight, bias, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.groups, ctx.eps = groups, eps
        if inplace:
            ctx.mark_dirty(y)
        return F.silu(y, inplace)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple:
        x, weight, bias = ctx.saved_tensors
        y = F.group_norm(x, ctx.groups, weight, bias, ctx.eps)
        return torch.ops.aten.silu_backward(gradient, y, grad_input=y), *[None] * 6


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)
        y = F.relu(x, inplace)
        ctx.save_for_backward(y <= 0)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        (stopped,) = ctx.saved_tensors
        return gradient.masked_fill(stopped, 0), None


def _conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:
    if not _frozen(x, weight, bias) or x.ndim != 4 or isinstance(padding, str):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return _Conv2d.apply(x, weight, bias, stride, padding, dilation, groups)


def _group_norm(x, num_groups, weight=None, bias=None, eps=1e-5) -> Tensor:
    y = F.group_norm(x, num_groups, weight, bias, eps)
    if _frozen(x, weight, bias):
        y.normalised = y._version, (x.detach(), num_groups, weight, bias, eps)
    return y


def _silu(x, inplace=False) -> Tensor:
    source = getattr(x, "normalised", None)
    if source is None or source[0] != x._version:  # no norm's output, or not any more
        return F.silu(x, inplace)
    return _SiLUOfNorm.apply(x, inplace, *source[1])


def _relu(x, inplace=False) -> Tensor:
    return _ReLU.apply(x, inplace) if x.requires_grad else F.relu(x, inplace)


def _frozen(x: Tensor, *weights: Tensor | None) -> bool:
    return x.requires_grad and not any(weight is not None and weight.requires_grad for weight in weights)


_LEAN = {F.conv2d: _conv2d, F.group_norm: _group_norm, F.silu: _silu, F.relu: _relu}


class Frozen(TorchFunctionMode):
    """Layers save what the gradient of their input needs, wherever a gradient is kept.

    Graphs made here can be differentiated any number of times, but not twice over.
    """

    def __torch_function__(self, func, types, args=(), kwargs: dict[str, Any] | None = None):
        lean = _LEAN.get(func)
        if lean is not None and torch.is_grad_enabled():
            return lean(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))
