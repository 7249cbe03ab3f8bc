"""What `comfy node pack` gives to users: .comfyignore leaves out development, and nothing that the rest needs."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posterior.benchmarks import start
from posterior.tools import environment, icon

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {"algebra", "operators", "measurement", "diffusion", "guidance", "samplers", "priors", "host", "nodes"}


def git(*arguments: str) -> set[str]:
    return set(subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.splitlines())


@pytest.fixture(scope="module")
def packed() -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    return git("ls-files") - git("ls-files", "--cached", "--ignored", "--exclude-from=.comfyignore")


def test_users_get_what_they_need_and_no_more(packed):
    assert not {name for name in packed if name.startswith(("tests/", "benchmarks/", ".ci/"))}
    assert {"pyproject.toml", "LICENSE", "README.md", "__init__.py", "dev.py"} <= packed
    folders = ROOMS | {"web", "workflows", "photos", "locales"}
    needed = {name for name in git("ls-files") if name.split("/")[0] in folders}
    assert needed - packed == {
        f"priors/{name}.py" for name in ("digits", "flow_digits", "muon", "photo_data", "train", "train_scratches")
    }


def test_no_file_of_the_pack_imports_one_that_is_left_out(packed):
    for name in packed:
        path = Path(name)
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))) if path.suffix == ".py" else ():
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            base = Path(*path.parts[: len(path.parts) - node.level], *(node.module or "").split("."))
            for module in (base, *(base / alias.name for alias in node.names)):
                if (ROOT / module).with_suffix(".py").is_file():
                    assert module.with_suffix(".py").as_posix() in packed, f"{name} imports {module}"


def test_the_registrys_checks_find_nothing():
    """The static levels of comfy-test: source that Windows reads, layers by the host's operations, names of ours."""
    pytest.importorskip("comfy_test", reason="comfy-test is not installed (tools/requirements-dev.txt)")
    command = [sys.executable, "-m", "comfy_test", "lint", str(ROOT), "--strict", "--json"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0 and json.loads(run.stdout)["passed"], run.stdout + run.stderr


def test_the_version_is_the_newest_of_the_changelog():
    newest = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
    assert version == (newest or ["0.1.0"])[0]  # the first one is not out yet


def test_icon_and_banner_are_what_their_script_makes():
    """And have the sizes of the registry; decoders differ a little."""
    for path, content in icon.files().items():
        kept, made = Image.open(path), Image.open(io.BytesIO(content))
        assert kept.size == made.size == (icon.ICON if path.stem == "icon" else icon.BANNER)
        assert np.abs(np.asarray(kept, float) - np.asarray(made, float)).mean() < 1, path.name
    assert icon.ICON == (400, 400) and icon.BANNER[0] * 9 == icon.BANNER[1] * 21


def test_the_pack_starts_without_weights(tmp_path):
    """A copy without any registers every node: nothing is read before a node asks for it."""
    _, count = start.imported(environment.get(os.environ.get("COMFYUI_PATH")), start.without_weights(tmp_path))
    assert count == len(json.loads((ROOT / "tests" / "object_info.json").read_text(encoding="utf-8")))
