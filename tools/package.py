"""Makes this clone importable as the package `posterior`, whatever its folder is called; runs one of its modules."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

CLONE = Path(__file__).resolve().parent.parent


def register() -> None:
    if "posterior" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "posterior", CLONE / "__init__.py", submodule_search_locations=[str(CLONE)]
        )
        sys.modules["posterior"] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)


if __name__ == "__main__":  # package.py MODULE [arguments]
    del sys.argv[0], sys.path[0]
    register()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
