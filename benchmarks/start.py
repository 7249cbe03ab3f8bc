"""What the pack adds to the start of ComfyUI, in seconds of the processor; the last line is JSON.

import     of all nodes and their schemas, into a host that is there already; the least of some fresh processes
again      the same where the files of compiled Python have to be made first, as after an installation

python3 dev.py bench start [--quick] [--repeats N]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ..tools import environment
from ..tools.server import CLONE

#: what `priors/` reads when a node asks for it
WEIGHTS = ("*.safetensors", "*.npz", "*.pth", "*.pt")
_CHILD = """
import asyncio, importlib.util, json, sys, time
host, clone = sys.argv[1:]
sys.argv = sys.argv[:1]
sys.path.insert(0, host)
import comfy.cli_args
comfy.cli_args.args.cpu = True
import folder_paths, nodes
import comfy_api.latest
spec = importlib.util.spec_from_file_location("pack", clone + "/__init__.py", submodule_search_locations=[clone])
start = time.process_time()
sys.modules["pack"] = pack = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
async def made():
    return await (await pack.comfy_entrypoint()).get_node_list()
names = [node.GET_SCHEMA().node_id for node in asyncio.run(made())]
print(json.dumps([time.process_time() - start, len(names)]))
"""


def imported(env: environment.Environment, clone: Path) -> tuple[float, int]:
    """Seconds of the processor that a fresh process takes for it, and how many nodes there are."""
    command = [str(env.python), "-c", _CHILD, str(env.host), str(clone)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tempfile.gettempdir())
    if done.returncode:
        raise RuntimeError(done.stderr)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def without_weights(folder: Path) -> Path:
    """A copy of the pack that holds no weights, so that what it does it does without."""
    left_out = shutil.ignore_patterns(*WEIGHTS, ".*", "__pycache__", "tests", "benchmarks", "workflows", "output")
    return Path(shutil.copytree(CLONE, folder / "pack", ignore=left_out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="once")
    parser.add_argument("--repeats", type=int)
    options = parser.parse_args()
    env, repeats = environment.get(os.environ.get("COMFYUI_PATH")), options.repeats or (1 if options.quick else 5)
    with tempfile.TemporaryDirectory() as folder:
        clone = without_weights(Path(folder))
        again, count = imported(env, clone)
        seconds = min(imported(env, clone)[0] for _ in range(repeats))
    print(f"{count} nodes: {seconds:.2f} s, {again:.2f} s right after an installation")
    print(json.dumps({"import": seconds, "again": again, "nodes": count}))


if __name__ == "__main__":
    sys.exit(main())
