"""The gradient of a VAE's decoder in tiles, one window of the latent after the other, where memory is short.

The picture comes from one pass without gradient. In the backward pass each window, a tile with a margin as wide as the
decoder can see, runs again with its graph. What looks at the whole picture, group normalisation and attention, gets
what it has seen in the first pass. So the picture is exact, seams included; its gradient is exact for decoders without
them (TAESD), and else takes the other tiles' part in a statistic to be like the tile's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import comfy.model_management
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ..autograd.frozen import Frozen, normalised
from ..autograd.gradients import exchanged
from .video import without_past

#: latent pixels around a tile that its picture depends on: 17.3 in the decoders of SD to Flux, 18.1 in TAESD
MARGIN = 20


@dataclass(frozen=True)
class Window:
    """A tile with its margin, in latent pixels: `tile` is what it is for, within `seen`, along both sides."""

    tile: tuple[slice, slice]
    seen: tuple[slice, slice]

    def core(self, x: Tensor) -> Tensor:
        """The tile's own part of what a layer sees of the window, whatever its resolution."""
        for dim, tile, seen in zip((-2, -1), self.tile, self.seen, strict=True):
            scale = x.shape[dim] // (seen.stop - seen.start)
            x = x.narrow(dim, scale * (tile.start - seen.start), scale * (tile.stop - tile.start))
        return x


def windows(height: int, width: int, tile: int) -> list[Window]:
    """Windows that cover a latent."""

    def along(size: int) -> list[tuple[slice, slice]]:
        ends = [(start, min(start + tile, size)) for start in range(0, size, tile)]
        return [(slice(a, b), slice(max(a - MARGIN, 0), min(b + MARGIN, size))) for a, b in ends]

    return [Window((y, x), (yy, xx)) for y, yy in along(height) for x, xx in along(width)]


class DecodedInTiles(torch.autograd.Function):
    """model.decode(latent), `1 C h w`, whose gradient is made in windows of `tile` latent pixels."""

    @staticmethod
    def forward(ctx, latent: Tensor, model: nn.Module, tile: int) -> Tensor:
        image, ctx.seen = whole_picture(model, lambda: model.decode(latent))
        ctx.save_for_backward(latent)
        ctx.model, ctx.tile = model, tile
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (latent,) = ctx.saved_tensors
        total, ratio = torch.zeros_like(latent), gradient.shape[-1] // latent.shape[-1]
        for window in windows(*latent.shape[-2:], ctx.tile):
            comfy.model_management.throw_exception_if_processing_interrupted()
            part = latent[(..., *window.seen)].detach().requires_grad_()
            entries = [(table, name, wrap(window)) for table, name, wrap in ctx.seen] + without_past(ctx.model)
            with torch.enable_grad(), exchanged(entries), Frozen():
                core = window.core(ctx.model.decode(part))
            own = gradient[(..., *(slice(ratio * side.start, ratio * side.stop) for side in window.tile))]
            total[(..., *window.seen)] += torch.autograd.grad(core, part, own)[0]
        return total, None, None


#: what takes the place of a layer in a window, an entry for `exchanged` still to be made
Replacement = tuple[dict, str, Callable[[Window], object]]


def whole_picture(model: nn.Module, run: Callable[[], Tensor]) -> tuple[Tensor, list[Replacement]]:
    """A pass over the whole picture without gradient, and what takes the place of normalisation and attention then.

    Args:
        run: the pass, in which they are watched.
    """
    norms = [
        (parent._modules, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if isinstance(child, nn.GroupNorm)
    ]
    attentions = [vars(module) for module in model.modules() if "optimized_attention" in vars(module)]
    seen: dict[int, Callable[[Window], object]] = {}

    def watch(norm: nn.GroupNorm, args: tuple[Tensor]) -> None:
        seen[id(norm)] = partial(WholeNorm, norm, *moments(args[0], norm.num_groups))

    def watched(own: dict, attention: Callable, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen[id(own)] = lambda window: partial(whole_attention, window, k, v)
        return attention(q, k, v)

    hooks = [norm.register_forward_pre_hook(watch) for _, _, norm in norms]
    watchers = [(own, "optimized_attention", partial(watched, own, own["optimized_attention"])) for own in attentions]
    try:
        with torch.no_grad(), exchanged(watchers), Frozen():
            image = run()
    finally:
        for hook in hooks:
            hook.remove()
    entries = [(table, name, seen.get(id(norm))) for table, name, norm in norms]
    entries += [(own, "optimized_attention", seen.get(id(own))) for own in attentions]
    return image, [entry for entry in entries if entry[2] is not None]  # the encoder's were not seen


def moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of the groups of channels, `B groups`."""
    precise = x.reshape(len(x), groups, -1).to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(precise, dim=2, correction=0)
    return mean, variance


def _pass_gradient(value: Tensor, live: Tensor) -> Tensor:
    """`value` with the gradient of `live`."""
    return value + (live - live.detach())


class WholeNorm(nn.Module):
    """Group normalisation of a window with the whole picture's mean and variance.

    Their gradient is that of the tile's own, as if the other tiles were like it.
    """

    def __init__(self, norm: nn.GroupNorm, mean: Tensor, variance: Tensor, window: Window):
        super().__init__()
        self._norm, self._whole, self._window = [norm], (mean, variance), window

    def forward(self, x: Tensor) -> Tensor:
        # only x is kept
        return normalised(checkpoint(self._of, x, use_reentrant=False, preserve_rng_state=False), self._of, x)

    def _of(self, x: Tensor) -> Tensor:
        norm = self._norm[0]
        mean, variance = map(_pass_gradient, self._whole, moments(self._window.core(x), norm.num_groups))
        each = x.shape[1] // norm.num_groups
        gain = (variance + norm.eps).rsqrt().repeat_interleave(each, 1) * norm.weight
        shift = norm.bias - mean.repeat_interleave(each, 1) * gain
        gain, shift = (channels[..., None, None].to(x.dtype) for channels in (gain, shift))
        return torch.addcmul(shift, x, gain)


def whole_attention(window: Window, all_k: Tensor, all_v: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of a window to the whole picture, `B C h w`; only what is in the tile passes a gradient."""
    keys, values = all_k.clone(), all_v.clone()
    keys[(..., *window.tile)], values[(..., *window.tile)] = window.core(k), window.core(v)
    flat = [x.flatten(2).transpose(1, 2) for x in (q, keys, values)]
    return F.scaled_dot_product_attention(*flat).transpose(1, 2).reshape(q.shape)
