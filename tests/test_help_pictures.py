"""Each help page has its example picture, and none is left over; tools/help_pictures.py makes them."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "web" / "docs").glob("*.md"))
PICTURES = ROOT / "web" / "docs" / "images"
MAKE = "run tools/package.py posterior.tools.help_pictures"


def named_in(text: str) -> list[str]:
    return re.findall(r"!\[[^\]]+\]\((?:[\w./]*/)?images/(\w+\.\w+)\)", text)


def test_each_page_has_its_picture():
    for page in PAGES:
        names = named_in(page.read_text(encoding="utf-8"))
        assert names, f"{page.name} has no picture: {MAKE}"
        for name in names:
            with Image.open(PICTURES / name) as picture:
                assert max(picture.size) >= 150, name


def test_no_picture_is_left_over_or_large():
    texts = [path.read_text(encoding="utf-8") for path in (*PAGES, ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    named = {name for text in texts for name in named_in(text)}
    assert sorted(path.name for path in PICTURES.iterdir() if path.name not in named) == []
    sizes = {path.name: path.stat().st_size for path in PICTURES.glob("Posterior*.jpg")}
    assert max(sizes.values()) < 40_000 and sum(sizes.values()) < 1_800_000
