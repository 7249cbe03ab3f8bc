"""What benchmarks measured, kept in benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import record_plot

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Points = list[dict[str, Any]]


def kept(name: str) -> list[dict[str, Any]]:
    """The runs of a benchmark: each what its last line said, and how it was `made`."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))["runs"] if file.is_file() else []


def keep(name: str, new: dict[str, Any]) -> None:
    """Replaces the points of the same problems and libraries; of libraries only their frontiers, which are shown."""
    done = {(point["task"], point.get("library")) for point in new["points"]}
    new, runs = {**new, "points": essential(new["points"])}, []
    for old in kept(name):
        points = [point for point in old["points"] if (point["task"], point.get("library")) not in done]
        runs += [{**old, "points": points}] if points else []
    write(name, [*runs, new])


def write(name: str, runs: list[dict[str, Any]]) -> None:
    """One point a line, so that changes can be read."""
    RESULTS.mkdir(exist_ok=True)
    parts = []
    for each in runs:
        lines = ",\n".join(json.dumps(point) for point in each["points"])
        head = json.dumps({key: value for key, value in each.items() if key != "points"})
        parts.append(f'{head[:-1]}, "points": [\n{lines}\n]}}')
    (RESULTS / f"{name}.json").write_text('{"runs": [\n' + ",\n".join(parts) + "\n]}\n", encoding="utf-8")


def essential(points: Points) -> Points:
    """Four digits of each; of a library's points on a problem those on its frontier, and Auto's."""
    points = [{**p, "quality": p["quality"] and float(f"{p['quality']:.4g}")} for p in points]
    own = [point for point in points if "library" not in point]
    for key in dict.fromkeys((p["task"], p["library"]) for p in points if "library" in p):
        its = [p for p in points if (p["task"], p.get("library")) == key and p["quality"] is not None]
        own += record_plot.frontier(its) + [p for p in its if p["auto"]]
    return own
