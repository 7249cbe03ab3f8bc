"""Checkpointing cuts the peak of a gradient pass, measured in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the kernel's account of a process")
def test_checkpointing_cuts_the_peak_by_forty_percent(tmp_path):
    def measure(way: str) -> tuple[float, float]:
        command = [sys.executable, str(Path(__file__).with_name("memory_probe.py")), way, str(tmp_path)]
        # glibc keeps what is freed below this size, and more of it in each thread: that is not the pass's memory
        exact = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        output = subprocess.run(command, capture_output=True, text=True, check=True, env=exact).stdout
        megabytes, norm = output.split()[-2:]
        return float(megabytes), float(norm)

    (plain, norm), (sparing, same) = measure("plain"), measure("checkpoint")
    assert sparing < 0.6 * plain
    assert same == pytest.approx(norm, rel=1e-4)
