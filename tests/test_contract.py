"""Nodes keep what shared workflows and API prompts rely on: ids, inputs in order, types, defaults, outputs."""

from __future__ import annotations

import copy
import json

from posterior.tools.contract import PROMISE, broken, contract
from posterior.tools.server import Server


def promise() -> dict:
    return json.loads(PROMISE.read_text(encoding="utf-8"))


def test_nodes_keep_their_promise(server: Server):
    faults = broken(promise(), contract(server.object_info()))
    assert not faults, "\n".join(faults)


def test_a_broken_promise_is_seen():
    solve = promise()["PosteriorSolve"]
    for place, change in enumerate(("renamed", "FLOAT", 7, ["samples"], 9)):
        changed = copy.deepcopy(solve)
        changed["inputs"][2][place] = change
        assert len(broken({"PosteriorSolve": solve}, {"PosteriorSolve": changed})) == 1, change
    appended = copy.deepcopy(solve)
    appended["inputs"].append(["more", "INT", 0, None, 1])
    appended["outputs"].append("INT")
    assert broken({"PosteriorSolve": solve}, {"PosteriorSolve": appended, "PosteriorNew": solve}) == []
    assert len(broken({"PosteriorSolve": appended}, {"PosteriorSolve": solve})) == 2
    assert broken({"PosteriorSolve": solve}, {}) == ["PosteriorSolve is gone"]
