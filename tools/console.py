"""What dev.py says to people: failures in one sentence, progress in one line."""

from __future__ import annotations

import sys
import time


class Failure(Exception):
    """A failure that one sentence explains; dev.py prints it and exits with code 1."""


class Progress:
    """A title, then what is going on and for how long: one rewritten line on a terminal, else a line now and then."""

    EVERY = 10.0  # seconds between lines where there is no terminal

    def __init__(self, title: str) -> None:
        self.start = self.last = time.monotonic()
        self.title, self.terminal = title, sys.stdout.isatty()
        print(title, flush=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def update(self, text: str) -> None:
        line = f"  [{self.seconds:4.0f} s] {text}"
        if self.terminal:
            print(f"\r{line[:100]:<100}", end="", flush=True)
        elif time.monotonic() - self.last > self.EVERY:
            print(line, flush=True)
            self.last = time.monotonic()

    def done(self) -> None:
        clear = f"\r{'':<100}\r" if self.terminal else ""
        print(f"{clear}  [{self.seconds:4.0f} s] done", flush=True)
