#!/usr/bin/env python3
"""Posterior's one command: repair a photo, run the tests, start a ComfyUI with the pack, run a benchmark."""

import sys

if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(f"Posterior needs Python 3.10 or later; this is Python {sys.version_info[0]}.{sys.version_info[1]}.")

import argparse
import os
import signal
import subprocess
import time
from pathlib import Path

from tools import environment
from tools.console import Failure
from tools.server import Server, free_port

CLONE = Path(__file__).resolve().parent


def main() -> int:
    options, rest = _parse()
    os.environ.update({"COMFYUI_PATH": options.comfyui} if options.comfyui else {})
    try:
        if options.job is bench and not (CLONE / "benchmarks" / f"{options.name}.py").is_file():
            raise Failure(f"There is no benchmarks/{options.name}.py.")
        return options.job(environment.get(options.comfyui), options, rest)
    except Failure as failure:
        print(f"\n{failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def demo(env: environment.Environment, options: argparse.Namespace, rest: list[str]) -> int:
    _need(env, "skimage", "scikit-image", "the baselines of the demo")
    return _run(env, "tools/package.py", "posterior.tools.demo", *["--no-open"] * options.no_open)


def test(env: environment.Environment, options: argparse.Namespace, rest: list[str]) -> int:
    """All of them in two processes of one thread each, which take half the time; what is named in one."""
    _need(env, "pytest", "pytest", "the tests")
    if not rest:
        _need(env, "xdist", "pytest-xdist", "two processes for the tests")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    return _run(env, "-m", "pytest", *(rest or ("-n", "2", "--dist", "loadfile")))


def serve(env: environment.Environment, options: argparse.Namespace, rest: list[str]) -> int:
    start = time.monotonic()
    port = options.port or free_port(8188)
    with Server(env, base=CLONE / ".run" / str(port), port=port) as server:
        version, seconds = server.system()["comfyui_version"], time.monotonic() - start
        print(f"ComfyUI {version} listens after {seconds:.0f} s: {server.url}")
        print(f"Pictures: {server.output}; log: {server.log_file}; Ctrl-C ends it.", flush=True)
        return server.process.wait()


def bench(env: environment.Environment, options: argparse.Namespace, rest: list[str]) -> int:
    return _run(env, "tools/package.py", f"posterior.benchmarks.{options.name}", *rest)


def restore(env: environment.Environment, options: argparse.Namespace, rest: list[str]) -> int:
    return _run(env, str(CLONE / "tools" / "package.py"), "posterior.tools.restore", *rest, folder=None)


def _need(env: environment.Environment, module: str, package: str, what: str) -> None:
    """Refuse a ComfyUI whose Python lacks what ours brings along."""
    code = f"import importlib.util as u; raise SystemExit(u.find_spec({module!r}) is None)"
    if subprocess.run([str(env.python), "-c", code], capture_output=True).returncode:
        raise Failure(
            f"{env.python} has no {package}, which {what} need: install tools/requirements-dev.txt there, "
            "or omit --comfyui."
        )


def _run(env: environment.Environment, *arguments: str, folder: Path | None = CLONE) -> int:
    """Run Python in the clone, or where the user is; a Ctrl-C reaches the child too, which cleans up before it ends."""
    process = subprocess.Popen([str(env.python), *arguments], cwd=folder)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def _parse() -> tuple[argparse.Namespace, list[str]]:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--comfyui",
        metavar="PATH",
        default=os.environ.get("COMFYUI_PATH"),
        help="use this ComfyUI instead of the one that is built in the cache (or set COMFYUI_PATH)",
    )
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    jobs = parser.add_subparsers(metavar="JOB", required=True)

    def job(function, help: str, **settings) -> argparse.ArgumentParser:
        command = jobs.add_parser(function.__name__, help=help, parents=[common], allow_abbrev=False, **settings)
        command.set_defaults(job=function)
        return command

    show = job(demo, "repair two photos on a real server; pictures and a page that shows them go to output/demo")
    show.add_argument("--no-open", action="store_true", help="do not open the page in the browser")
    job(test, "run the tests; further arguments go to pytest")
    job(serve, "start ComfyUI with the pack and print its address").add_argument("--port", type=int)
    job(restore, "every picture of a folder through one workflow; restore --help says more", add_help=False)
    job(bench, "run benchmarks/NAME.py; further arguments, like --quick, go to it").add_argument("name", metavar="NAME")
    options, rest = parser.parse_known_args()
    if rest and options.job in (demo, serve):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    return options, rest


if __name__ == "__main__":
    sys.exit(main())
