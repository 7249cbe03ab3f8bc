"""Where long work may be stopped, and says how far it is.

A long loop calls `checkpoint` in each turn. Who runs it may watch: `with watched(callback)` is told the share that is
done, and ends the work by raising. Where nobody watches it costs nothing. Loops that may be a part of longer ones tell
no share, since theirs is not that of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_WATCH: ContextVar[Callable[[float | None], None] | None] = ContextVar("watch", default=None)


@contextmanager
def watched(callback: Callable[[float | None], None]) -> Iterator[None]:
    """Work within is watched by `callback`, called with the share of a loop that is done, in [0, 1], or None."""
    token = _WATCH.set(callback)
    try:
        yield
    finally:
        _WATCH.reset(token)


def checkpoint(done: float | None = None) -> None:
    """To be called in each turn of a long loop. done: share of the loop at most, in [0, 1]; None in a part."""
    callback = _WATCH.get()
    if callback is not None:
        callback(done)
