"""Pictures per minute of `dev.py restore`, and what it costs over asking a server by hand; the last line is JSON.

    by hand    one server; each picture uploaded, its prompt run and its result fetched, by a plain loop
    1, 2       the command's own pool on one server and on two, with its ledger, EXIF and table
    overhead   of 1 over by hand, in seconds of the processor of client and server: other programs do not count
    own        of the client alone, milliseconds a picture by hand and on one server: what the server needs drowns these

Servers compute with one thread. The pictures differ, so that nothing comes from a cache; the cases take turns.

    python3 dev.py bench folders [--quick] [--pictures N] [--size N] [--repeats N]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..tools import environment, restore
from ..tools.restore_graph import ends, filled, prompt_of
from ..tools.server import CLONE, Server
from .fuzz import busy


def scans(folder: Path, numbers: range, size: int) -> list[Path]:
    """Pictures with a scratch, another one for each number, and their masks."""
    folder.mkdir()
    with Image.open(CLONE / "photos" / "chelsea.jpg") as photo:
        picture = np.asarray(photo.convert("RGB").resize((size, size)))
    lost = np.zeros((size, size), np.uint8)
    lost[size // 2 : size // 2 + 3] = 255
    paths = [folder / f"{number}.png" for number in numbers]
    for number, path in zip(numbers, paths, strict=True):
        Image.fromarray(np.roll(picture, 1 + number, 1)).save(path)
        Image.fromarray(lost).save(path.with_name(f"{path.stem}.mask.png"))
    return paths


def by_hand(server: Server, graph: dict[str, Any], paths: list[Path]) -> None:
    """What a user's own script would do."""
    info = server.object_info()
    prompt = prompt_of(graph, info)
    first, last = ends(prompt, None, None)
    for path in paths:
        names = [server.upload(file, f"hand-{file.name}") for file in (path, path.with_name(f"{path.stem}.mask.png"))]
        made = filled(copy.deepcopy(prompt), first, last, names[:1], names[1], info, False)
        server.images({last: server.run(made)[last]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few small pictures")
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--size", type=int, help="side of a picture, pixels")
    parser.add_argument("--repeats", type=int)
    options = parser.parse_args()
    count, size = options.pictures or (4 if options.quick else 12), options.size or (96 if options.quick else 192)
    repeats = options.repeats or (1 if options.quick else 3)
    os.environ["OMP_NUM_THREADS"] = "1"
    workflow = CLONE / "workflows" / "inpaint_photo.json"
    graph, env = json.loads(workflow.read_text(encoding="utf-8")), environment.get(os.environ.get("COMFYUI_PATH"))
    seconds: dict[str, list[float]] = {"by hand": [], "1": [], "2": []}
    computed: dict[str, list[float]] = {case: [] for case in seconds}
    own: dict[str, list[float]] = {case: [] for case in seconds}
    with tempfile.TemporaryDirectory() as base, Server(env, cpu=True) as one, Server(env, cpu=True) as two:
        for turn in range(-1, 3 * repeats):  # the first turn, of each server, warms up
            case = ("by hand", "1", "2")[turn % 3] if turn >= 0 else "2"
            paths = scans(Path(base, str(turn)), range(1 + (turn + 1) * count, 1 + (turn + 2) * count), size)
            start, before, begun = time.monotonic(), busy(one), time.process_time()
            if case == "by hand":
                by_hand(one, graph, paths)
            else:
                with redirect_stdout(StringIO()):
                    urls = [one.url, two.url][: int(case)]
                    restore.restore(paths[0].parent, Path(base, f"out{turn}"), workflow, urls, (None, None))
            if turn >= 0:
                seconds[case].append(time.monotonic() - start)
                own[case].append(time.process_time() - begun)
                computed[case].append(busy(one) - before + own[case][-1])
    for case, values in seconds.items():
        print(f"{case:8s} {60 * count / min(values):8.1f} pictures a minute")
    overhead = min(computed["1"]) / min(computed["by hand"]) - 1
    each = {case: round(1000 * min(own[case]) / count, 1) for case in ("by hand", "1")}
    print(f"overhead {100 * overhead:7.1f} %\nown      {each['by hand']:7.1f} and {each['1']} ms a picture")
    found = {"seconds": seconds, "computed": computed, "own": own, "overhead": overhead}
    print(json.dumps({**found, "pictures": count, "size": size}))


if __name__ == "__main__":
    main()
