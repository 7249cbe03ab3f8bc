"""Every benchmark that the documentation names takes --quick and explains itself."""

from __future__ import annotations

import importlib
import re
import sys

import pytest

from posterior.tools.server import CLONE

NAMES = sorted(path.stem for path in (CLONE / "benchmarks").glob("*.py") if "\ndef main(" in path.read_text())


def test_the_documentation_names_all_of_them():
    text = (CLONE / "docs" / "figures.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"`python3 dev.py bench NAME \[--quick\]` with NAME one of (.*?)\.", text)
    assert re.findall(r"`(\w+)`", line) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_options(name, monkeypatch, capsys):
    """Case D2; the program ends with its help, before it measures anything."""
    module = importlib.import_module(f"posterior.benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--quick", "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0 and "--quick" in capsys.readouterr().out
