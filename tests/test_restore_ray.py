"""A folder on a Ray cluster of this machine: two ComfyUIs, each of which is killed in mid-run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from test_restore import command, folder, rows  # noqa: F401

from posterior.tools import pixels
from posterior.tools.console import Failure
from posterior.tools.restore_ray import Cluster

pytest.importorskip("ray", reason="ray is not installed (tools/requirements-dev.txt)")


def processes(out: Path) -> set[tuple[str, int]]:
    """The workers that have restored something, and their processes."""
    table = out / "restore.csv"
    text = table.read_text(encoding="utf-8") if table.exists() else ""
    return {(name, int(process)) for name, process in re.findall(r'"(worker \d), process (\d+)"', text)}


def test_dead_workers_are_replaced(folder):  # noqa: F811
    for number in range(6):  # each another one, since a server answers twice the same from its cache
        photo = pixels.read(folder / "c.png").values
        (folder / f"m{number}.png").write_bytes(pixels.encoded(np.roll(photo, 5 + 7 * number, 1), "PNG"))
        (folder / f"m{number}.mask.png").write_bytes((folder / "c.mask.png").read_bytes())
    out, killed = folder.with_name("scans_restored"), {}
    run = subprocess.Popen(
        command(folder, "--ray", "local", "--workers", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while run.poll() is None and len(killed) < 2:
        for name, process in processes(out):
            if name not in killed:
                os.kill(process, signal.SIGKILL)
                killed[name] = process
        time.sleep(0.05)
    said, errors = run.communicate(timeout=600)
    assert run.returncode == 1 and "9 restored, 1 failed" in said, said + errors
    assert len(killed) == 2 and {process for _, process in processes(out)} > set(killed.values())
    table = rows(out)
    assert table["broken.png"]["status"] == "failed"
    for name, bits in (("a.jpg", 8), ("sub/b.tif", 16), ("c.png", 16)):
        assert pixels.read(out / name).bits == int(table[name]["bits"]) == bits


def test_there_is_no_cluster():
    with pytest.raises(Failure, match="There is no Ray cluster at nonsense"):
        Cluster("nonsense")
