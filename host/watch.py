"""Long work of ours under the host's eye: it can be cancelled, and shows how far it is."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import comfy.model_management
import comfy.utils

from ..algebra.checkpoint import watched

#: seconds from which on work shows its progress, and between two reports
PATIENCE, PACE = 1.0, 0.1


def interruptible() -> AbstractContextManager[None]:
    """Core loops within end when the user cancels; for work that something else shows the progress of."""
    return watched(lambda done: comfy.model_management.throw_exception_if_processing_interrupted())


class Progress:
    """Ends the work when the user cancels, and moves the node's progress bar."""

    def __init__(self):
        self._bar, self._due = None, time.monotonic() + PATIENCE

    def __call__(self, done: float | None) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if done is not None and time.monotonic() >= self._due:
            self._bar = self._bar or comfy.utils.ProgressBar(1000)
            self._bar.update_absolute(int(1000 * done), 1000)
            self._due = time.monotonic() + PACE


def watched_node(node: type) -> type:
    """The node, whose `execute` is watched."""
    execute: Callable = node.execute.__func__

    @functools.wraps(execute)
    def watching(cls, *args, **kwargs):
        with watched(Progress()):
            return execute(cls, *args, **kwargs)

    return type(node.__name__, (node,), {"execute": classmethod(watching), "__module__": node.__module__})
