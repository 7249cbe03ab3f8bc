"""Runs benchmarks, keeps what they measured in benchmarks/results, and writes docs/benchmarks.md and its plots.

Lines of its first table go into the README, between two comments. A run replaces what was kept of its problems, library
by library, so that a long benchmark may be run in parts. `record` runs all that the document shows, `record NAME ...`
one of them, and further arguments go to it.

    python3 dev.py bench record [--quick | --kept] [NAME] [arguments]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .record_plot import plot

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE, IMAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "images"
BUDGETS = (20, 50, 100)
#: of LanPaint's own table
PAINTED = (60, 110)
#: of the table at the largest budget, what the README quotes
QUOTED = ("texture, half hidden", "mixture of 8", "digits")
QUOTE = "<!-- benchmarks -->"
#: a peer is said to be ahead where it is better by more than this share
SHARE = 0.03
Points = list[dict[str, Any]]


# What is kept


def kept(name: str) -> list[dict[str, Any]]:
    """The runs of a benchmark: each what its last line said, and how it was `made`."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))["runs"] if file.is_file() else []


def run(name: str, arguments: list[str]) -> None:
    """Runs a benchmark and keeps its last line."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    command = [sys.executable, "tools/package.py", f"posterior.benchmarks.{name}", *arguments]
    start, last = time.monotonic(), ""
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line
    if process.returncode:
        raise SystemExit(f"{name} ended with {process.returncode}; nothing of it was kept.")
    keep(name, {"made": how_made(name, arguments, environment, time.monotonic() - start), **json.loads(last)})


def how_made(name: str, arguments: list[str], environment: Mapping[str, str], seconds: float) -> dict[str, Any]:
    commit = ["git", "rev-parse", "--short", "HEAD"]
    return {
        "command": " ".join(["bench", name, *(Path(each).name if os.sep in each else each for each in arguments)]),
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "threads": int(environment["OMP_NUM_THREADS"]),
        "seconds": round(seconds),
        "commit": subprocess.run(commit, cwd=ROOT, capture_output=True, text=True).stdout.strip(),
        "versions": {package: version(package) for package in ("torch", "deepinv", "azula")},
    }


def keep(name: str, new: dict[str, Any]) -> None:
    done = {(point["task"], point.get("library")) for point in new["points"]}
    runs = []
    for old in kept(name):
        points = [point for point in old["points"] if (point["task"], point.get("library")) not in done]
        runs += [{**old, "points": points}] if points else []
    RESULTS.mkdir(exist_ok=True)
    parts = []
    for each in [*runs, new]:
        lines = ",\n".join(json.dumps(point) for point in each["points"])
        head = json.dumps({key: value for key, value in each.items() if key != "points"})
        parts.append(f'{head[:-1]}, "points": [\n{lines}\n]}}')
    (RESULTS / f"{name}.json").write_text('{"runs": [\n' + ",\n".join(parts) + "\n]}\n", encoding="utf-8")


def processor() -> str:
    """Its maker's name for it, where the system tells."""
    try:
        names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


# What is written


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


def frontier() -> list[str]:
    """Auto beside the best of our ways, and the plots."""
    tasks = by_task(points_of("frontier"))
    rows = []
    for task, points in tasks.items():
        for budget in BUDGETS:
            auto, ours = best((point for point in points if point["auto"]), budget), best(points, budget)
            if ours:
                share = f"{auto['quality'] / ours['quality']:.2f}" if auto else "-"
                rows.append([task, str(budget), cell(auto, by=False), share, cell(ours)])
    text = table(["problem", "calls at most", "Auto", "over the best", "best of our ways"], rows)
    return [*text, ""] + [f"![{task}: quality against model calls](images/{picture(task)})" for task in tasks]


def libraries(points: Points) -> list[str]:
    return sorted({point["library"] for point in points})


def at_most(budget: int) -> list[str]:
    """The summary at one budget: a row a task."""
    ours, others = by_task(points_of("frontier")), by_task(points_of("peers"))
    names = libraries(points_of("peers"))
    rows = []
    for task, points in ours.items():
        mine = best(points, budget)
        auto = best((point for point in points if point["auto"]), budget)
        peers = [best((each for each in others.get(task, ()) if each["library"] == name), budget) for name in names]
        first = min((each["quality"] for each in (mine, *peers) if each), default=None)
        cells = [cell(each, each is not None and each["quality"] == first, by=False) for each in (auto, mine, *peers)]
        rows.append([task, *cells])
    return table(["problem", "Auto", "our best", *names], rows)


def peers() -> list[str]:
    """Each peer's best at each budget; bold where it is ahead of all of ours."""
    ours, points = by_task(points_of("frontier")), points_of("peers")
    rows = []
    for task, own in by_task(points).items():
        for budget in BUDGETS:
            mine = best(ours.get(task, ()), budget)
            cells = []
            for name in libraries(points):
                peer = best((point for point in own if point["library"] == name), budget)
                cells.append(cell(peer, bool(peer and mine and peer["quality"] < (1 - SHARE) * mine["quality"])))
            rows.append([task, str(budget), cell(mine, by=False), *cells])
    text = table(["problem", "calls at most", "our best", *libraries(points)], rows)
    painted = lanpaint()
    return [*text, "", "Beside LanPaint at the calls that it is mostly used with:", "", *painted] if painted else text


def lanpaint() -> list[str]:
    """LanPaint, the best of ours, Auto."""
    ours, theirs = by_task(points_of("frontier")), [p for p in points_of("peers") if p["library"] == "LanPaint"]
    rows = []
    for task, own in by_task(theirs).items():
        for budget in PAINTED:
            points = ours.get(task, [])
            first, auto = best(points, budget), best((point for point in points if point["auto"]), budget)
            rows.append([task, str(budget), *(cell(each) for each in (best(own, budget), first, auto))])
    return table(["problem", "calls at most", "LanPaint", "our best", "Auto"], rows) if rows else []


#: the benchmarks of the document, each with its heading, what stands above its table, and what makes it
SECTIONS: dict[str, tuple[str, str, Callable[[], list[str]]]] = {
    "frontier": (
        "Auto beside the best of our ways",
        "`bench frontier`. Auto is what *Auto Guidance* chooses for so many steps; the others are methods with settings"
        " that suit some problem. In the plots a point is a method with its settings and a number of steps (the mouse"
        " over it says which), and the line is the frontier.",
        frontier,
    ),
    "peers": (
        "Other libraries",
        "`bench peers`: what is in the registry's [deepinv](https://deepinv.github.io) and "
        "[azula](https://github.com/probabilists/azula), on the same problems, with the same prior, in their own "
        "settings and a few more; each the best of its settings. [LanPaint](https://github.com/scraed/LanPaint) by its "
        "own sampler in ComfyUI, on the problems of masks. Bold: ahead of every way of ours by more than 3 %.",
        peers,
    ),
}  # fmt: skip

INTRODUCTION = """# Benchmarks

Written by `python3 dev.py bench record` from what the benchmarks said last (`benchmarks/results`); do not edit it.

Samples of problems whose posterior is known, by the sliced Wasserstein-1 distance to exact samples over the posterior's
deviation, and of ten half-hidden digits, by their squared error in the hidden half. Smaller is better. A pass forward
and a pass backward through the model count one call each. `benchmarks/frontier.py` says what each problem is."""


def picture(task: str) -> str:
    return f"frontier_{re.sub('[^a-z0-9]+', '_', task.lower()).strip('_')}.svg"


def how(name: str) -> list[str]:
    lines = []
    for each in kept(name):
        made, tasks = each["made"], ", ".join(f"*{task}*" for task in by_task(each["points"]))
        whose = ", ".join(sorted({point["library"] for point in each["points"] if point.get("library")}))
        versions = ", ".join(f"{package} {number}" for package, number in made["versions"].items())
        lines.append(
            f"* {tasks}{f' ({whose})' if whose else ''}: `{made['command']}`, {made['date']}, {made['processor']}, "
            f"{made['threads']} thread(s), {made['seconds']} s, seed {each.get('seed', 1)}, {versions}, "
            f"commit {made['commit']}."
        )
    return lines


def files() -> dict[Path, str]:
    """What the documents are, by what was kept: the page, its plots, and the README with its lines."""
    summary = at_most(BUDGETS[-1])
    text = [INTRODUCTION, "", f"With at most {BUDGETS[-1]} model calls (the first of each row bold):", "", *summary]
    for name, (heading, words, make) in SECTIONS.items():
        if kept(name):
            words = textwrap.fill(words, 120, break_long_words=False, break_on_hyphens=False)
            text += ["", f"## {heading}", "", words, "", *make(), "", "How it was made:", "", *how(name)]
    made = {PAGE: "\n".join(text) + "\n"}
    others = by_task(points_of("peers"))
    for task, points in by_task(points_of("frontier")).items():
        made[IMAGES / picture(task)] = plot(task, points, others.get(task, []))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [*summary[:2], *(row for row in summary[2:] if row.split(" | ")[0][2:] in QUOTED)]
    made[ROOT / "README.md"] = re.sub(
        f"{QUOTE}.*{QUOTE}", lambda _: "\n".join([QUOTE, *lines, QUOTE]), readme, count=1, flags=re.S
    )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run each of them with --quick")
    parser.add_argument("--kept", action="store_true", help="run none, write the documents anew")
    parser.add_argument("name", nargs="?", choices=SECTIONS, metavar="NAME", help=f"one of {', '.join(SECTIONS)}")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="for that benchmark")
    options = parser.parse_args()
    for name in () if options.kept else [options.name] if options.name else SECTIONS:
        run(name, ["--quick"] * options.quick + options.arguments)
    IMAGES.mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
