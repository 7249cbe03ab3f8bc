"""Two clients at once, prompts cancelled at random: memory and objects stay (`bench soak` at length)."""

from __future__ import annotations

from posterior.benchmarks.soak import soak

NAMES = ("Solve, restoration", "DPS", "Apply Guidance", "TDS")


def test_a_server_in_use_stays_as_it_is(server):
    found = soak(server, 20, seed=0, names=NAMES, parts=2)
    assert not found["faults"] and found["same"] and found["cancelled"] > 2, found
    assert found["memory"] < 1.05 and found["objects"] < 1.01 and found["tensors"] <= 0, found
    assert found["cancel"][1] < 2, found
