"""docs/benchmarks.md is what `bench record` makes of what it kept."""

from __future__ import annotations

import json
import re

from posterior.benchmarks import record_kept, record_page, record_plot

POINTS = [
    {"task": "a", "method": m, "settings": "", "calls": c, "quality": q, "auto": m == "own"}
    for m, c, q in (("x", 10, 0.5), ("y", 20, 0.7), ("z", 30, 0.2), ("own", 30, 0.3))
]


def test_the_documents_are_not_stale():
    """Page, plots and the README's lines; no plot is left that nothing makes."""
    made = record_page.files()
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"python3 dev.py bench record --kept: {path}"
    assert set(record_page.IMAGES.glob("*.svg")) == {path for path in made if path.suffix == ".svg"}
    assert all(file.stat().st_size < 200_000 for file in record_kept.RESULTS.glob("*.json"))


def test_the_readme_quotes_three_lines():
    readme, page = (
        (record_kept.ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/benchmarks.md")
    )
    (quoted,) = re.findall(f"{record_page.QUOTE}\n(.*?)\n{record_page.QUOTE}", readme, re.S)
    assert len(quoted.splitlines()) == 5 and set(quoted.splitlines()) <= set(page.splitlines())
    assert len(readme.splitlines()) < 120


def test_best_and_frontier():
    assert record_page.best(POINTS, 20)["method"] == "x" and record_page.best(POINTS, 5) is None
    assert [point["method"] for point in record_plot.frontier(POINTS)] == ["x", "z"]


def test_a_run_replaces_its_problems_only(tmp_path, monkeypatch):
    monkeypatch.setattr(record_kept, "RESULTS", tmp_path)
    old = [{**POINTS[0], "task": task, "library": name} for task in "ab" for name in ("one", "two")]
    record_kept.keep("it", {"made": {"seconds": 1}, "points": old})
    record_kept.keep("it", {"made": {"seconds": 2}, "points": [{**old[0], "quality": 9.0}]})
    first, second = json.loads((tmp_path / "it.json").read_text())["runs"]
    assert (first["points"], second["made"]) == (old[1:], {"seconds": 2})
    assert [point["quality"] for point in second["points"]] == [9.0]
