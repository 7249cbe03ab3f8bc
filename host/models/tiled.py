"""MODELs for pictures larger than they were made for: their prediction is made in windows, see `spaces.windows`.

A wrapper of the host around the call of the network. What guides the model sees the whole prediction, so that one
likelihood speaks of the whole picture. Windows go one after the other, and again in the backward pass, so that the
memory of a call is that of one window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...measurement.blend import shows_pixels
from ...measurement.measurement import Measurement
from ..spaces.latents import of_model
from ..spaces.windows import ATTACHMENT, Window, Windows, at_once, blended
from .pixel_model import on_squares

#: picture pixels that a model takes at once: networks on pixels, and those on latents
_PIXELS, _LATENTS = 256, 1024
#: picture pixels to one of a latent, by channels; 8 for the others
_RATIO = {3: 1, 48: 16, 64: 32, 128: 16}
#: pixels from which on networks on pixels, which were trained on squares of 64 to 256, look in windows
_LARGE = 2**20


def tiled(patcher, side: int = 0, overlap: float = 0.25, region: Tensor | None = None):
    """A MODEL that looks in windows.

    Args:
        side: of a window, picture pixels; 0 for what the kind of model is made for.
        overlap: share of a window that neighbours have in common, 0 to 0.5.
        region: `B C H W`, of the picture: only windows that touch what is not 0 are computed; a model on latents has it
            enlarged to whole latent pixels.
    """
    channels = of_model(patcher.model.latent_format).channels
    ratio = _RATIO.get(channels, 8)
    side = max((side or (_PIXELS if ratio == 1 else _LATENTS)) // ratio, 8)
    windows = Windows(side, int(side * overlap), None if region is None else _on_grid(region, ratio))

    def apply_model(executor, x: Tensor, t: Tensor, *conds, **kwargs) -> Tensor:
        height, width = x.shape[-2:]
        if max(height, width) <= side and windows.region is None:
            return executor(x, t, *conds, **kwargs)
        places = windows.over(height, width, _step(t, conds, kwargs))
        parts = [_seen(executor, x, place, t, conds, kwargs) for place in places]
        return blended(windows, places, parts, x)

    def prepare(executor, model, noise_shape: Sequence[int], *args, **kwargs):
        """The memory that the host asks for is that of one window."""
        return executor(model, at_once(clone, noise_shape), *args, **kwargs)

    clone, kinds = patcher.clone(), comfy.patcher_extension.WrappersMP
    for kind, wrapper in ((kinds.APPLY_MODEL, apply_model), (kinds.PREPARE_SAMPLING, prepare)):
        clone.remove_wrappers_with_key(kind, ATTACHMENT)
        clone.add_wrapper_with_key(kind, ATTACHMENT, wrapper)
    clone.set_attachments(ATTACHMENT, windows)
    return clone


def _seen(executor: Callable, x: Tensor, place: Window, t: Tensor, conds: Sequence, named: dict) -> Tensor:
    """What the model predicts in one window."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    size = x.shape[-2:]

    def call(part: Tensor) -> Tensor:  # the containers are made anew within, since networks take entries out of them
        cut_conds = (_cut(cond, place, size) for cond in conds)
        return executor(part, t, *cut_conds, **{key: _cut(value, place, size) for key, value in named.items()})

    part = x[(..., *place)]
    if torch.is_grad_enabled() and x.requires_grad:
        return checkpoint(call, part, use_reentrant=False, preserve_rng_state=False)
    return call(part)


def _cut(value: Any, place: Window, size: Sequence[int]) -> Any:
    """The window's part of all that is laid out as the picture, in nested containers.

    Args:
        size: (H, W) of the whole; what ControlNets give is a power of 2 smaller.
    """
    if isinstance(value, Tensor) and value.ndim >= 4:
        scales = [whole / side for whole, side in zip(size, value.shape[-2:], strict=True)]
        if scales[0] == scales[1] and scales[0] in (1.0, 2.0, 4.0, 8.0):
            own = (slice(round(s.start / scales[0]), round(s.stop / scales[0])) for s in place)
            return value[(..., *own)]
    if isinstance(value, dict):
        return {key: _cut(item, place, size) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_cut(item, place, size) for item in value)
    return value


def _step(t: Tensor, conds: Sequence, named: dict) -> int:
    """How many of the run's noise levels have been passed."""
    options = named.get("transformer_options") or (conds[3] if len(conds) > 3 else None) or {}
    sigmas = options.get("sample_sigmas")
    return 0 if sigmas is None else int((sigmas > t.max().to(sigmas)).sum())


def _on_grid(region: Tensor, ratio: int) -> Tensor:
    whole = region.amax(dim=(0, 1), keepdim=True).float()
    return torch.nn.functional.max_pool2d(whole, ratio, ceil_mode=True) > 0


def fitting(patcher, measurement: Measurement, own_pixels: bool):
    """The MODEL as it can take the measured picture, and how in words: in windows where the picture is too large.

    It is where networks on pixels have more than a megapixel before them, and others more than the memory holds. Where
    the measured pixels are kept as they are, on pixels, only windows that touch a hole are computed.
    """
    _, height, width = measurement.image_shape
    works_on = of_model(patcher.model.latent_format)
    pixels, ratio = works_on.channels == 3, _RATIO.get(works_on.channels, 8)
    shape = [1, works_on.channels, -(-height // ratio), -(-width // ratio)]
    free = comfy.model_management.get_free_memory(patcher.load_device)
    large = patcher.model.memory_required(shape) > free
    if on_squares(patcher.model):
        large |= height * width > _LARGE
    if not large or patcher.get_attachment(ATTACHMENT) is not None:
        return patcher, ""
    hole = None
    picture = measurement.y.new_empty(1, *measurement.image_shape)
    if own_pixels and pixels and shows_pixels(measurement.operator, picture):
        hole = (measurement.operator.singular_values(picture) == 0).expand_as(picture)
    clone = tiled(patcher, region=hole)
    return clone, f"in windows of {clone.get_attachment(ATTACHMENT).side * ratio} pixels" + (
        "" if hole is None else " around what is missing"
    )
