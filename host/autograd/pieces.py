"""A model call in pieces: samples one after the other. Their losses are independent, so the gradient is the same."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def pieces(batch: int, samples: int, kinds: list[int] | None) -> list[slice]:
    """Slices of at most so many samples that do not mix the kinds of conditioning (positive, negative ...)."""
    each = batch // max(len(kinds or ()), 1)
    return [
        slice(start + i, start + min(i + samples, each))
        for start in range(0, batch, each)
        for i in range(0, each, samples)
    ]


def take(value: Any, piece: slice, batch: int) -> Any:
    """The piece of all tensors with the batch in front, in nested containers; the lists that the host keeps for each
    kind of conditioning are cut to the piece's kind."""
    if isinstance(value, Tensor):
        return value[piece] if value.ndim and value.shape[0] == batch else value
    if isinstance(value, dict):
        cut = {key: take(item, piece, batch) for key, item in value.items()}
        kinds = value.get("cond_or_uncond")
        if kinds:
            kind = piece.start * len(kinds) // batch
            cut.update({key: value[key][kind : kind + 1] for key in ("cond_or_uncond", "uuids") if key in value})
        return cut
    if type(value) in (list, tuple):
        return type(value)(take(item, piece, batch) for item in value)
    return value
