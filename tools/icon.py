"""Makes the icon and the banner of the pack from the workflows' thumbnails, which are their real outputs.

    python tools/package.py posterior.tools.icon      # web/images/icon.png (400 x 400) and banner.jpg (21 : 9)

Each thumbnail shows the damage at the left and the repair at the right. The registry takes both pictures by URL
(https://docs.comfy.org/registry/specifications): an icon of 400 x 400 pixels at most, a banner of 21 : 9.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from .server import CLONE

FOLDER = CLONE / "web" / "images"
ICON, BANNER = (400, 400), (1260, 540)
REPAIRS = ("inpaint_photo", "deblur_photo", "super_resolution", "denoise_photo")


def thumbnail(name: str, side: int) -> Image.Image:
    with Image.open(CLONE / "workflows" / f"{name}.jpg") as picture:
        return picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def icon() -> Image.Image:
    return thumbnail(REPAIRS[0], ICON[0])


def banner() -> Image.Image:
    """The middle of each repair, side by side."""
    width, height = BANNER[0] // len(REPAIRS), BANNER[1]
    whole, left = Image.new("RGB", BANNER), (height - width) // 2
    for place, name in enumerate(REPAIRS):
        whole.paste(thumbnail(name, height).crop((left, 0, left + width, height)), (place * width, 0))
    return whole


def files() -> dict[Path, bytes]:
    """What is to be written, by its place."""
    found = {}
    for name, picture, kind, settings in (
        ("icon.png", icon(), "PNG", {"optimize": True}), ("banner.jpg", banner(), "JPEG", {"quality": 88}),
    ):  # fmt: skip
        stream = io.BytesIO()
        picture.save(stream, kind, **settings)
        found[FOLDER / name] = stream.getvalue()
    return found


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for path, content in files().items():
        path.write_bytes(content)


if __name__ == "__main__":
    main()
