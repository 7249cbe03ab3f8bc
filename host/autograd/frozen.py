"""Graphs of networks whose weights take no gradient.

Autograd saves for all gradients that a layer could have. With the weights frozen most of it is not needed:

    convolution            is linear in its input, whose gradient W^T g needs the weight only
    SiLU after group norm  its input is the norm's output, which is made again in the backward pass from the norm's own
                           input, saved by the norm in any case
    ReLU                   one byte for each number says whether its gradient passes

So a block of norm, SiLU and convolution keeps one tensor instead of three, with the same values and gradients. Making
the norm's output again is cheap: what costs time are the convolutions, and none of them runs twice.

They cost less where the picture has just been enlarged by doubling its pixels. Of the nine numbers under a 3 x 3 kernel
only four differ, so that the weights of equal ones can be added up beforehand: the doubling and the convolution are one
transposed convolution of the small picture, with a 4 x 4 kernel, stride 2 and 4/9 of the multiplications. In the
decoder of SD that is a seventh of all. Values are equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from .keepable import call


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


class _ConvOfDoubled(torch.autograd.Function):
    """conv2d(doubled x, weight, bias, padding=1) for 3 x 3 kernels."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _conv_of_doubled(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        (weight,) = ctx.saved_tensors
        return F.conv2d(gradient, _kernel_of_doubled(weight), stride=2, padding=1), None, None


def _conv_of_doubled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv_transpose2d(x, _kernel_of_doubled(weight), bias, stride=2, padding=1)


def _kernel_of_doubled(weight: Tensor) -> Tensor:
    """Each pixel of the small picture becomes 2 x 2 equal ones: the turned kernel, summed over their places."""
    turned = weight.float() if weight.dtype.itemsize < 4 else weight
    turned = turned.flip(2, 3).transpose(0, 1)
    kernel = sum(F.pad(turned, (x, 1 - x, y, 1 - y)) for y in (0, 1) for x in (0, 1))
    return kernel.to(weight.dtype).contiguous()


class _SiLUOfNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, inplace: bool, norm: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.norm = norm
        if inplace:
            ctx.mark_dirty(y)
        return F.silu(y, inplace)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple:
        tensors = ctx.saved_tensors
        y = ctx.norm(*tensors)
        return torch.ops.aten.silu_backward(gradient, y, grad_input=y), *[None] * (2 + len(tensors))


def normalised(y: Tensor, norm: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
    """y, which a SiLU after it need not keep: norm(*tensors) makes it again from what is kept in any case.

    The note on y halves the graph of SD's decoder (157 of 304 MB at 32 x 32 latents).
    """
    y.normalised = y._version, norm, *(tensor if tensor is None else tensor.detach() for tensor in tensors)
    return y


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
    geometry = _pair(stride), _pair(padding), _pair(dilation), groups
    small = _undoubled(x)
    if small is not None and weight.shape[2:] == (3, 3) and geometry == _PLAIN and not _learns(weight, bias):
        conv = _ConvOfDoubled.apply if small.requires_grad else _conv_of_doubled
        return conv(small, weight, bias)
    if not x.requires_grad or _learns(weight, bias) or x.ndim != 4 or isinstance(padding, str):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return _Conv2d.apply(x, weight, bias, stride, padding, dilation, groups)


def _interpolate(x, size=None, scale_factor=None, mode="nearest", *args, **kwargs) -> Tensor:
    y = F.interpolate(x, size, scale_factor, mode, *args, **kwargs)
    doubled = y.ndim == 4 and y.shape[2] == 2 * x.shape[2] and y.shape[3] == 2 * x.shape[3]
    if doubled and mode.startswith("nearest") and y[0, 0].numel() >= _WORTH and not y.is_inference():
        y.doubled = y._version, x, x._version
    return y


def _undoubled(y: Tensor) -> Tensor | None:
    """What `y` was doubled from, unless either has changed since."""
    version, x, of_x = getattr(y, "doubled", (None, None, None))
    return x if x is not None and version == y._version and of_x == x._version else None


def _group_norm(x, num_groups, weight=None, bias=None, eps=1e-5) -> Tensor:
    y = F.group_norm(x, num_groups, weight, bias, eps)
    if x.requires_grad and not _learns(weight, bias):
        return normalised(y, lambda x, weight, bias: F.group_norm(x, num_groups, weight, bias, eps), x, weight, bias)
    return y


def _silu(x, inplace=False) -> Tensor:
    source = getattr(x, "normalised", None)
    if source is None or source[0] != x._version:  # no norm's output, or not any more
        return F.silu(x, inplace)
    return _SiLUOfNorm.apply(x, inplace, *source[1:])


def _relu(x, inplace=False) -> Tensor:
    return _ReLU.apply(x, inplace) if x.requires_grad else F.relu(x, inplace)


def _learns(*weights: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(weight is not None and weight.requires_grad for weight in weights)


#: pixels from which summing up the weights costs next to nothing
_WORTH = 64 * 64
#: stride, padding, dilation and groups of a convolution that keeps the size
_PLAIN = (1, 1), (1, 1), (1, 1), 1
_LEAN = {F.conv2d: _conv2d, F.interpolate: _interpolate, F.group_norm: _group_norm, F.silu: _silu, F.relu: _relu}


class Frozen(TorchFunctionMode):
    """Layers save what the gradient of their input needs, and convolve doubled pictures before they are doubled.

    Graphs made here can be differentiated any number of times, but not twice over.

    Args:
        copies: whether weights pass through buffers that are overwritten, see `keepable`.
    """

    def __init__(self, copies: bool = False):
        super().__init__()
        self.copies = copies
        #: functions called so far that a gradient may follow; what a network works out once, before it begins, is none
        self.calls = 0

    def __torch_function__(self, func, types, args=(), kwargs: dict[str, Any] | None = None):
        self.calls += torch.is_grad_enabled()
        func = _LEAN.get(func, func)
        if not kwargs and not self.copies:  # the short way for most calls
            for value in args:
                if value.is_inference() if isinstance(value, Tensor) else type(value) in (list, tuple):
                    break
            else:
                return func(*args)
        return call(func, args, kwargs or {}, self.copies)
