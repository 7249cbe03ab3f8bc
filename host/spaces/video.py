"""Networks of video VAEs, where a picture is the first frame and has no past."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn


class _NoPast(list):
    """The memory of a network that sees first frames only: always empty."""

    def __getitem__(self, index):
        return None

    def __setitem__(self, index, value) -> None:
        pass


#: all frames at once, quietly
_TAEHV = {"parallel": True, "show_progress_bar": False}


def without_past(model: nn.Module) -> list[tuple]:
    """Entries for `exchanged` that make a network of video see single frames.

    Those that are causal in time note what each layer saw for the frames to come, more than the gradient needs, and
    could not run a second time with their notes. TAEHV takes the past of a frame that it has grown out of this one
    without its gradient, unless it makes all of them at once.
    """
    entries: list[tuple] = []
    for part in (getattr(model, "encoder", None), getattr(model, "decoder", None)):
        if part is not None and "feat_cache" in inspect.signature(part.forward).parameters:
            entries.append((vars(part), "forward", partial(_forgetting, part.forward)))
    entries += [(vars(model), name, value) for name, value in _TAEHV.items() if name in vars(model)]
    return entries


def _forgetting(forward: Callable, x: Tensor, feat_cache: list | None = None, **rest) -> Tensor:
    return forward(x, feat_cache=None if feat_cache is None else _NoPast(), **rest)
