"""Runs a host's main.py and ends it as soon as the parent process is gone (its end of our stdin closes)."""

from __future__ import annotations

import os
import runpy
import sys
import threading


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = sys.argv[1:]
    here, folder = os.path.dirname(os.path.abspath(__file__)), os.path.dirname(sys.argv[0])
    sys.path[:] = [folder] + [path for path in sys.path if path != here]
    runpy.run_path(sys.argv[0], run_name="__main__")
