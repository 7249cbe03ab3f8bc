"""Where long work may be stopped, and says how far it is.

A long loop calls `checkpoint` in each turn. Who runs it may watch: `with watched(callback)` is told the share that is
done, and ends the work by raising. Where nobody watches it costs nothing. Loops that may be a part of longer ones tell
no share, since theirs is not that of the whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

#: seconds between two looks at whether to go on waiting
PACE = 0.05

Value = TypeVar("Value")
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


def awaited(work: Callable[[], Value]) -> Value:
    """The result of long calls that nothing can stop, such as decompositions, made aside.

    Who watches may end the waiting; what then still runs is thrown away at its next `checkpoint`.
    """
    if _WATCH.get() is None:
        return work()
    result: Future[Value] = Future()
    forgotten = threading.Event()

    def going_on(done: float | None) -> None:
        if forgotten.is_set():
            raise CancelledError

    def run() -> None:
        try:
            with watched(going_on):
                result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while not wait([result], PACE).done:
            checkpoint()
    except BaseException:
        forgotten.set()
        raise
    return result.result()
