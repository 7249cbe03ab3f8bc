"""Every picture of a folder through one workflow, on one or many running ComfyUI servers.

    python3 dev.py restore FOLDER --workflow W.json [--out O] [--server URL ... | --ray ADDRESS [--workers N]]

The results have the names of the originals, in FOLDER_restored unless --out says where; masks lie beside the
originals as NAME.mask.png, white where the picture is lost. restore.csv tells how each went. Stop it whenever you
like and run it again: it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from . import environment, pixels
from .console import Failure, Progress
from .restore_ledger import Ledger
from .restore_ray import Cluster
from .restore_workers import Ids, Job, Pool, Worker
from .server import Server


def pictures(folder: Path, out: Path) -> list[Path]:
    """All pictures below the folder, relative to it: no masks, nothing hidden, nothing of the results."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts) or out in path.parents
        if path.suffix.lower() in pixels.SUFFIXES and not hidden and not is_mask(path) and path.is_file():
            found.append(name)
    return found


def is_mask(path: Path) -> bool:
    return path.stem.lower().endswith(".mask")


def bar(done: int, total: int, failed: int, seconds: float, made: int) -> str:
    """What has been done of all, and how long the rest takes at the pace of the `made` ones of these seconds."""
    full = 20 * done // max(total, 1)
    line = f"[{'#' * full}{'.' * (20 - full)}] {done} of {total}" + (f", {failed} failed" if failed else "")
    if not made or done >= total:
        return line
    left = round(seconds / made * (total - done))
    hours, minutes = divmod(left // 60, 60)
    return f"{line}, {f'{hours} h {minutes:02} min' if hours else f'{minutes}:{left % 60:02}'} left"


def restore(
    folder: Path, out: Path, workflow: Path, servers: list[str], ids: Ids, cluster: Cluster | None = None
) -> int:
    """Returns how many pictures failed.

    Args:
        servers: addresses of running ComfyUIs; none where there is a cluster.

    Raises:
        Failure: where nothing can be done, or no server is left.
    """
    if out == folder or folder.is_relative_to(out):
        raise Failure("The results need a folder of their own: choose another one with --out.")
    try:
        graph = json.loads(workflow.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Failure(f"{workflow} cannot be read as a workflow: {error}.") from None
    names = pictures(folder, out)
    if not names:
        raise Failure(f"There is no picture in {folder} ({', '.join(sorted(pixels.SUFFIXES))}).")
    with Ledger(out, graph) as ledger:
        jobs = [Job(folder / name, name.as_posix()) for name in names if not ledger.is_done(name.as_posix())]
        there = len(names) - len(jobs)
        progress = Progress(f"{len(names)} pictures, {there} of them done before; results: {out}")
        alone = [Worker(url, graph, ids) for url in dict.fromkeys(servers)]
        pool = Pool(jobs, ledger, cluster.workers(graph, ids) if cluster else alone)
        while pool.busy():
            made = pool.restored + pool.failed
            progress.update(bar(there + made, len(names), pool.failed, progress.seconds, made))
        pool.end()
        if progress.terminal:
            print(flush=True)
    if pool.left:
        reasons = "\n".join(f"{url}: {why}" for url, why in pool.gone.items())
        raise Failure(f"{pool.left} of the pictures are left and no server is; run it again for them.\n{reasons}")
    print(f"{there + pool.restored} restored, {pool.failed} failed; see {ledger.path}", flush=True)
    return pool.failed


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="dev.py restore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--workflow", type=Path, required=True, help="as the editor saves it, or in the API format")
    parser.add_argument("--out", type=Path, help="where the results go (FOLDER_restored)")
    parser.add_argument("--server", nargs="+", action="extend", default=[], metavar="URL", help="running ComfyUIs")
    parser.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster, whose machines start ComfyUIs of their own")
    parser.add_argument("--workers", type=int, metavar="N", help="how many of them (one for each GPU, or machine)")
    parser.add_argument("--picture", metavar="ID", help="the node that loads the picture, where there are several")
    parser.add_argument("--result", metavar="ID", help="the node that saves the result, where there are several")
    options = parser.parse_args()
    folder = options.folder.expanduser().resolve()
    out = (options.out or folder.with_name(f"{folder.name}_restored")).expanduser().resolve()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            if not folder.is_dir():
                raise Failure(f"There is no folder {folder}.")
            if options.ray and options.server:
                raise Failure("--server and --ray are two ways; choose one.")
            cluster = stack.enter_context(Cluster(options.ray, options.workers)) if options.ray else None
            servers = [url if "://" in url else f"http://{url}" for url in options.server]
            if not servers and not cluster:
                servers = [stack.enter_context(Server(environment.get(os.environ.get("COMFYUI_PATH")))).url]
            ids = options.picture, options.result
            return int(restore(folder, out, options.workflow, servers, ids, cluster) > 0)
    except Failure as failure:
        print(f"\n{failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; run it again to go on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
