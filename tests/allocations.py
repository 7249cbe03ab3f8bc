"""The memory that tensors take, counted by the profiler: exact, whatever the allocator keeps and others do."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def allocations(work: Callable[[], object], trace: Path) -> tuple[int, int]:
    """Bytes on the CPU at the peak of `work()`, and those still held after it, both above what there was before.

    Args:
        trace: a file for the profiler's record.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    record.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    sizes = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["args"]["Ev Idx"])]
    return max(accumulate(sizes)), sum(sizes)
