"""A folder on a Ray cluster of this machine: two ComfyUIs, one of which is killed in mid-run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import numpy as np
import pytest
from PIL.Image import Exif
from test_restore import command, folder, rows  # noqa: F401

from posterior.tools import pixels

pytest.importorskip("ray", reason="ray is not installed (tools/requirements-dev.txt)")


def test_a_worker_is_killed_and_replaced(folder):  # noqa: F811
    for number in range(6):  # each another one, since a server answers twice the same from its cache
        photo = pixels.read(folder / "c.png").values
        (folder / f"m{number}.png").write_bytes(pixels.encoded(np.roll(photo, 5 + 7 * number, 1), "PNG", Exif(), None))
        (folder / f"m{number}.mask.png").write_bytes((folder / "c.mask.png").read_bytes())
    out = folder.with_name("scans_restored")
    process = subprocess.Popen(
        command(folder, "--ray", "local", "--workers", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(out.glob("[acm]*.*")):
        time.sleep(0.05)
    first = next(row for row in rows(out).values() if row["status"] == "restored")["server"]
    worker = int(re.fullmatch(r"worker \d, process (\d+)", first)[1])
    os.kill(worker, signal.SIGKILL)
    said, errors = process.communicate(timeout=600)
    assert process.returncode == 1 and "9 restored, 1 failed" in said, said + errors
    table = rows(out)
    workers = {row["server"] for row in table.values() if row["status"] == "restored"}
    assert len({name.partition(",")[0] for name in workers}) == 2 and len(workers) > 2  # both, and the one that came after
    assert table["broken.png"]["status"] == "failed"
    for name, bits in (("a.jpg", 8), ("sub/b.tif", 16), ("c.png", 16)):
        assert pixels.read(out / name).bits == int(table[name]["bits"]) == bits
