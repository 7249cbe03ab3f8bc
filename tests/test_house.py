"""The house: which room may import which, and no file too long to be read at once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: from the ground up: a room imports itself and what lies below it
ROOMS = ["algebra", "operators", "measurement", "diffusion", "guidance", "samplers", "priors", "host", "nodes"]
#: neighbours that know nothing of each other
APART = {"priors": {"guidance", "samplers"}}
CORE = ROOMS[: ROOMS.index("host")]
FILES = [path.relative_to(ROOT) for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """The first name of each module that a file imports: a room of ours, or a package."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = path.parent.parts[: len(path.parent.parts) - node.level + 1]
            parts = (*base, *(node.module or "").split("."))
            found |= {parts[0]} if parts[0] else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_run_down_only(room):
    allowed = set(ROOMS[: ROOMS.index(room) + 1]) - APART.get(room, set())
    for path in FILES:
        if path.parts[0] == room:
            assert imported(path) & set(ROOMS) <= allowed, path


def test_the_mathematics_knows_no_host():
    for path in FILES:
        if path.parts[0] in CORE:
            assert not {name for name in imported(path) if name.startswith(("comfy", "folder_paths"))}, path


def test_no_file_is_too_long():
    """Tables and schemas may be; a mixture of roles is split."""
    for path in FILES:
        assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= 300, path
