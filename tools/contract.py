"""What shared workflows and API prompts hold us to: every node's inputs and outputs, in order, with types and defaults.

    python tools/package.py posterior.tools.contract      # adds what is new to tests/object_info.json

The file is a promise: tests/test_contract.py fails where a node no longer keeps it.
"""

from __future__ import annotations

import json
from typing import Any

from . import environment
from .server import CLONE, Server
from .workflow import companions, inputs_of

PROMISE = CLONE / "tests" / "object_info.json"


def contract(object_info: dict[str, Any]) -> dict[str, Any]:
    """Per node of ours: `inputs`, a list of [name, type, default, options, saved values], and `outputs`, of types.

    Choices without a default are files of the user's: their options are left out.
    """
    ours = {key: node for key, node in object_info.items() if node["python_module"] == "custom_nodes.posterior"}
    return {key: {"inputs": _inputs(node), "outputs": node["output"]} for key, node in sorted(ours.items())}


def _inputs(node: dict[str, Any]) -> list[list[Any]]:
    found = []
    for name, kind, options in inputs_of(node):
        choices = options.get("options") if "default" in options else None
        found.append([name, kind, options.get("default"), choices, 1 + companions(name, kind, options)])
    return found


def broken(promised: dict[str, Any], present: dict[str, Any]) -> list[str]:
    """Where `present` fails what was promised; nodes, inputs, outputs and choices that were added are fine."""
    found = [f"{key} is gone" for key in promised.keys() - present.keys()]
    for key in promised.keys() & present.keys():
        old, new = promised[key], present[key]
        if new["outputs"][: len(old["outputs"])] != old["outputs"]:
            found.append(f"{key}: outputs {old['outputs']} became {new['outputs']}")
        for place, (name, kind, default, choices, values) in enumerate(old["inputs"]):
            if place >= len(new["inputs"]):
                found.append(f"{key}: input {name} is gone")
                continue
            name_now, kind_now, default_now, choices_now, values_now = new["inputs"][place]
            if (name, kind, default, values) != (name_now, kind_now, default_now, values_now):
                found.append(f"{key}: input {old['inputs'][place]} became {new['inputs'][place]}")
            elif missing := set(choices or ()) - set(choices_now or ()):
                found.append(f"{key}: {name} lost {sorted(missing)}")
    return sorted(found)


def main() -> None:
    with Server(environment.get(None), cpu=True) as server:
        present = contract(server.object_info())
    if PROMISE.exists() and (faults := broken(json.loads(PROMISE.read_text(encoding="utf-8")), present)):
        raise SystemExit("\n".join(faults))
    lines = [f" {json.dumps(key)}: {json.dumps(node)}" for key, node in present.items()]
    PROMISE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
