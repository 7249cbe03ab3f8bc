"""docs/benchmarks.md, its plots and the lines of the README, made of what was kept."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from . import record_plot
from .record_kept import ROOT, Points, kept

PAGE = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "images"
BUDGETS = (20, 50, 100)
#: of the first table
SUMMARY = 50
#: of LanPaint's own table
PAINTED = (60, 110)
#: of the first table, what the README quotes
QUOTED = ("texture, half hidden", "mixture of 8", "digits")
QUOTE = "<!-- benchmarks -->"
#: a peer is said to be ahead where it is better by more than this share
SHARE = 0.03
#: as it is, and where it takes a gradient through the model the same without one
AUTOS = ("Auto", "Auto without a gradient")
#: the library of our own points among those of `peers`
OURS = "Posterior"


def points_of(name: str) -> Points:
    """All points that have a finite quality."""
    return [point for each in kept(name) for point in each["points"] if point["quality"] is not None]


def best(points: Iterable[dict[str, Any]], budget: int) -> dict[str, Any] | None:
    """Of those that cost no more; the cheaper of equals."""
    affordable = [point for point in points if point["calls"] <= budget]
    return min(affordable, key=lambda point: (point["quality"], point["calls"]), default=None)


def number(value: float) -> str:
    return f"{value:.3g}" if value >= 0.1 else f"{value:.2g}"


def cell(point: dict[str, Any] | None, bold: bool = False, by: bool = True) -> str:
    """How good, and by what."""
    if point is None:
        return "-"
    text = number(point["quality"])
    text = f"**{text}**" if bold else text
    return f"{text} {point['method']}, {point['settings']}, {point['calls']} calls" if by else text


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def by_task(points: Points) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for point in points:
        found.setdefault(point["task"], []).append(point)
    return found


def best_autos(points: Points, budget: int) -> list[dict[str, Any] | None]:
    """Auto, and where it takes a gradient through the model what it is without one."""
    own = [point for point in points if point["auto"]]
    without = [point for point in own if "no gradient" in point["settings"]]
    return [best((point for point in own if point not in without), budget), best(without, budget)]


def by_library(points: Points) -> dict[str, Points]:
    """In the order of their names, ours left out."""
    found: dict[str, Points] = {}
    for point in points:
        found.setdefault(point["library"], []).append(point)
    return {name: found[name] for name in sorted(found) if name != OURS}


def plots(name: str) -> dict[str, str]:
    """What the pictures of a benchmark are called, and the pictures: one for each problem."""
    made = {}
    for task, points in by_task(points_of(name)).items():
        own = [point for point in points if point.get("library", OURS) == OURS]
        words = f"{name}_{re.sub('[^a-z0-9]+', '_', task.lower()).strip('_')}.svg"
        made[words] = record_plot.plot(task, own, by_library([point for point in points if "library" in point]))
    return made


def pictures(name: str) -> list[str]:
    """Two in a line."""
    links = [f"![Quality against model calls](images/{file})" for file in plots(name)]
    return table(["", ""], [[*links[k : k + 2], ""][:2] for k in range(0, len(links), 2)])


def summary() -> list[str]:
    """Everybody's best at one budget: a row a problem."""
    rows, names = [], list(by_library(points_of("peers")))
    for task, points in by_task(points_of("peers")).items():
        others = by_library(points)
        own = [point for point in points if point["library"] == OURS]
        peers = [best(others.get(name, ()), SUMMARY) for name in names]
        cells = [*best_autos(own, SUMMARY), best(own, SUMMARY), *peers]
        first = min(point["quality"] for point in cells if point)
        rows.append([task, *(cell(p, p is not None and p["quality"] == first, by=False) for p in cells)])
    return table(["problem", *AUTOS, "our best", *names], rows)


def frontier() -> list[str]:
    """Auto beside the best of our ways."""
    rows = []
    for task, points in by_task(points_of("frontier")).items():
        for before, budget in zip((0, *BUDGETS), BUDGETS, strict=False):
            if any(1.1 * before < point["calls"] <= budget for point in points):
                autos, first = best_autos(points, budget), best(points, budget)
                shares = [f"{auto['quality'] / first['quality']:.2f}" if auto else "-" for auto in autos]
                rows.append([task, str(budget), *(cell(auto, by=False) for auto in autos), *shares, cell(first)])
    head = ["problem", "calls at most", *AUTOS, *(f"{name}, over the best" for name in AUTOS), "best of our ways"]
    return table(head, rows)


def peers() -> list[str]:
    """Each library's best at each budget, bold where it is ahead of all of ours; and LanPaint's own table."""
    rows, painted, names = [], [], list(by_library(points_of("peers")))
    for task, points in by_task(points_of("peers")).items():
        own, others = [point for point in points if point["library"] == OURS], by_library(points)
        for budget in BUDGETS:
            first, cells = best(own, budget), []
            for name in names:
                peer = best(others.get(name, ()), budget)
                cells.append(cell(peer, bool(peer and first and peer["quality"] < (1 - SHARE) * first["quality"])))
            rows.append([task, str(budget), cell(first), *cells])
        for budget in PAINTED if "LanPaint" in others else ():
            four = best(others["LanPaint"], budget), best(own, budget), *best_autos(own, budget)
            painted.append([task, str(budget), *map(cell, four[:2]), *(cell(each, by=False) for each in four[2:])])
    text = table(["problem", "calls at most", "our best", *names], rows)
    head = ["problem", "calls at most", "LanPaint", "our best", *AUTOS]
    return [*text, "", "LanPaint at about 60 and 110 calls:", "", *table(head, painted)] if painted else text


#: the benchmarks of the document, each with its heading, what stands above its table, and what makes it
SECTIONS: dict[str, tuple[str, str, Callable[[], list[str]]]] = {
    "frontier": (
        "Auto beside the best of our ways",
        "`bench frontier`, on pictures and draws that had no part in any choice. In the plots a point is a method with "
        "its settings and a number of steps (the mouse over it says which), and the line is the frontier.",
        frontier,
    ),
    "peers": (
        "Other libraries",
        "`bench peers`: [deepinv](https://deepinv.github.io) and "
        "[azula](https://github.com/probabilists/azula), on the same problems, with the same prior, in their own "
        "settings and a few more; each the best of its settings. [LanPaint](https://github.com/scraed/LanPaint) by its "
        "own sampler in ComfyUI, on the problems of masks. Bold: ahead of every way of ours by more than 3 %. What was "
        "learnt of it is in [figures.md](figures.md#beside-other-libraries).",
        peers,
    ),
}  # fmt: skip


INTRODUCTION = """# Benchmarks

Written by `python3 dev.py bench record` from what the benchmarks said last (`benchmarks/results`); do not edit it.

Samples of textures and mixtures, whose posterior is known, by the sliced Wasserstein-1 distance to exact samples over
the posterior's deviation; of ten half-hidden digits by their squared error in the hidden half; of photographs by the
energy score, restorations by the RMS error, in percent of white. Smaller is better. A pass forward and a pass backward
through the model count one call each. `benchmarks/frontier.py` says what each problem is. *Auto* is what *Solve Inverse
Problem* takes by itself."""


def how(name: str) -> list[str]:
    lines = []
    for each in kept(name):
        made, tasks = each["made"], ", ".join(f"*{task}*" for task in by_task(each["points"]))
        whose = ", ".join(sorted({point["library"] for point in each["points"] if point.get("library")}))
        others = [each["of"]] if "of" in each else []
        took = f"{made['seconds']} s, " if made["seconds"] else "in parts, "
        versions = ", ".join([*(f"{package} {number}" for package, number in made["versions"].items()), *others])
        lines.append(
            f"* {tasks}{f' ({whose})' if whose else ''}: `{made['command']}`, {made['date']}, {made['processor']}, "
            f"{made['threads']} thread(s), {took}seed {each.get('seed', 1)}, {versions}, "
            f"commit {made['commit']}."
        )
    return lines


def files() -> dict[Path, str]:
    """What the documents are, by what was kept: the page, its plots, and the README with its lines."""
    first, text, made = summary(), [INTRODUCTION], {}
    if kept("peers"):
        text += ["", f"With at most {SUMMARY} model calls (the first of each row bold):", "", *first]
    for name, (heading, words, make) in SECTIONS.items():
        if kept(name):
            words = textwrap.fill(words, 120, break_long_words=False, break_on_hyphens=False)
            text += ["", f"## {heading}", "", words, "", *make(), "", *pictures(name)]
            text += ["", "How it was made:", "", *how(name)]
            made |= {IMAGES / file: plot for file, plot in plots(name).items()}
    made[PAGE] = "\n".join(text) + "\n"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [*first[:2], *(row for row in first[2:] if row.split(" | ")[0][2:] in QUOTED)]
    made[ROOT / "README.md"] = re.sub(
        f"{QUOTE}.*{QUOTE}", lambda _: "\n".join([QUOTE, *lines, QUOTE]), readme, count=1, flags=re.S
    )
    return made
