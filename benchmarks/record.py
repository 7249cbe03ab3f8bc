"""Runs benchmarks, keeps what they measured in benchmarks/results, and writes docs/benchmarks.md and its plots.

Lines of its first table go into the README, between two comments. A run replaces what was kept of its problems, library
by library, so that a long benchmark may be run in parts. `record` runs all that the document shows, `record NAME ...`
one of them, and further arguments go to it.

    python3 dev.py bench record [--quick | --kept] [NAME] [arguments]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .record_kept import ROOT, keep
from .record_page import IMAGES, SECTIONS, files


def run(name: str, arguments: list[str]) -> None:
    """Runs a benchmark and keeps its last line."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    command = [sys.executable, "tools/package.py", f"posterior.benchmarks.{name}", *arguments]
    start, last = time.monotonic(), ""
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line
    if process.returncode:
        raise SystemExit(f"{name} ended with {process.returncode}; nothing of it was kept.")
    keep(name, {"made": how_made(name, arguments, environment, time.monotonic() - start), **json.loads(last)})


def how_made(name: str, arguments: list[str], environment: Mapping[str, str], seconds: float) -> dict[str, Any]:
    commit = ["git", "rev-parse", "--short", "HEAD"]
    return {
        "command": " ".join(["bench", name, *(Path(each).name if os.sep in each else each for each in arguments)]),
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "threads": int(environment["OMP_NUM_THREADS"]),
        "seconds": round(seconds),
        "commit": subprocess.run(commit, cwd=ROOT, capture_output=True, text=True).stdout.strip(),
        "versions": {package: version(package) for package in ("torch", "deepinv", "azula")},
    }


def processor() -> str:
    """Its maker's name for it, where the system tells."""
    try:
        names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run each of them with --quick")
    parser.add_argument("--kept", action="store_true", help="run none, write the documents anew")
    parser.add_argument("name", nargs="?", choices=SECTIONS, metavar="NAME", help=f"one of {', '.join(SECTIONS)}")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="for that benchmark")
    options = parser.parse_args()
    for name in () if options.kept else [options.name] if options.name else SECTIONS:
        run(name, ["--quick"] * options.quick + options.arguments)
    IMAGES.mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
