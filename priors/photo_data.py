"""The photographs that the embedded prior learns from, taken from packages of Debian.

    python priors/photo_data.py        fetch, prepare, and rewrite the table in priors/DATA.md

needs `apt-get` (with fresh lists: `apt-get update`), `dpkg-deb` and Pillow. The prepared photographs are kept in the
user's cache. Every photograph is reduced by at least 1.6, which removes most of the noise and of the compression
artefacts and leaves texture that is sharp at the scale of a pixel.
"""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FREE = re.compile(r"CC0|public domain|CC-BY(-SA)?[- ]\d", re.IGNORECASE)

GCOMPRIS = "gcompris-qt-data"
# Activities made of photographs. In `details` the pictures are the backgrounds, half of them paintings.
PHOTOGRAPHS = re.compile(
    r"(erase/resource"
    r"|explore_(monuments|farm_animals|world_animals|world_music)/resource/\w+"
    r"|categorization/resource/images/(fishes|monuments|renewable|others)"
    r"|details/resource/image(?!/(Eglise|Gogh|Portrait|Van_Gogh|Vincent))(?=/\S+_background))/[^/]+\.webp$"
)
# Held out for good (photos/), cut out and put on a flat background, or with the frame of a slide around it.
REFUSED = {"red_panda", "berlinCathedral", "volleyball", "baseball", "blackslate", "georgeWashingtonBirthplace"}

# Author and licence as in the package's copyright file; its other pictures are drawings, or held out.
LOMIRI = {
    "lomiri-wallpapers-16.04": {
        "Bridge_by_Sander_Klootwijk.jpg": ("Sander Klootwijk", "CC-BY-SA-4.0"),
        "Dragonfly_by_Bolly.jpg": ("Bolly", "CC-BY-SA-4.0"),
        "Picture_1A_by_freespace.jpg": ('Trevor "Freespace"', "CC-BY-4.0"),
        "Wine_by_Jakkub_Mede.jpg": ("Jakub Mede", "CC-BY-4.0"),
        "aitzgorri_by_Aitzol_Berasategi.jpg": ("Aitzol Berasategi", "CC-BY-4.0"),
        "free_by_Peter_Nerlich.jpg": ("Peter Nerlich", "CC-BY-SA-4.0"),
        "friends_by_Aitzol_Berasategi.jpg": ("Aitzol Berasategi", "CC-BY-4.0"),
        "greentock_by_Peter_Nerlich.jpg": ("Peter Nerlich", "CC-BY-SA-4.0"),
        "picosdeeuropa_by_Aitzol_Berasategi.jpg": ("Aitzol Berasategi", "CC-BY-4.0"),
        "seeding_by_Clements_Engelhardt.jpg": ("Clemens Engelhardt", "CC0-1.0"),
        "sunset_by_Aitzol_Berasategi.jpg": ("Aitzol Berasategi", "CC-BY-4.0"),
    },
    "lomiri-wallpapers-20.04": {"Kleiber_by_Lukas_Baubkus.jpg": ("Lukas Baubkus", "CC-BY-SA-3.0")},
}


@dataclass
class Photo:
    package: str
    file: str
    author: str
    licence: str
    data: bytes


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "posterior"


def unpack(package: str) -> Path:
    """Folder with the files of a Debian package, fetched by the system's own client."""
    folder = cache_folder() / "packages"
    target = folder / package
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Without the sandbox user, who cannot write here, root gets no warning; for other users it changes nothing.
        subprocess.run(["apt-get", "-o", "APT::Sandbox::User=root", "download", package], cwd=folder, check=True)
        (deb,) = folder.glob(f"{package}_*.deb")
        partial = folder / f"{package}.partial"
        subprocess.run(["dpkg-deb", "-x", deb, partial], check=True)
        partial.rename(target)
        deb.unlink()
    return target


def rcc_files(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """(path, content) of every file in a binary Qt resource collection (all numbers big-endian)."""
    magic, version, tree, data, names = struct.unpack_from(">4s4I", raw)
    if magic != b"qres":
        raise ValueError("not a Qt resource collection")
    node_size = 14 if version < 2 else 22

    def walk(index: int, folder: str) -> Iterator[tuple[str, bytes]]:
        name, flags, a, b = struct.unpack_from(">IHII", raw, tree + index * node_size)
        (length,) = struct.unpack_from(">H", raw, names + name)
        path = folder + raw[names + name + 6 :][: 2 * length].decode("utf-16-be") if index else ""
        if flags & 2:  # a folder: a children, the first at b
            for child in range(b, b + a):
                yield from walk(child, path + "/" if path else "")
        else:
            (size,) = struct.unpack_from(">I", raw, data + b)
            content = raw[data + b + 4 :][:size]
            yield path, zlib.decompress(content[4:]) if flags & 1 else content

    return walk(0, "")


def credits(readme: str) -> dict[str, tuple[str, str]]:
    """{file: (author, licence)} from a GCompris README: blocks of `Copyright:`, `License:` and file names."""
    table = {}
    for block in re.split(r"\n\s*\n", readme):
        field = dict(re.findall(r"^(Copyright|License): *(.+)$", block, re.MULTILINE))
        based = re.search(r"^Comment: based on .*? by (.+?), licen[sc]e", block, re.MULTILINE)
        author = field.get("Copyright", "unknown") + (f", after {based[1]}" if based else "")
        for name in re.findall(r"(\S+\.webp)", block):
            table[name] = (author, field.get("License", "unknown").strip())
    return table


def photos() -> Iterator[Photo]:
    """Every photograph of the training set, in a fixed order."""
    for collection in sorted(unpack(GCOMPRIS).glob("usr/share/gcompris-qt/rcc/*.rcc")):
        files = {k.removeprefix("gcompris/src/activities/"): v for k, v in rcc_files(collection.read_bytes())}
        table = {}
        for path, content in files.items():
            if path.endswith("/README"):
                folder = path.removesuffix("README")
                table |= {folder + name: row for name, row in credits(content.decode()).items()}
        for path in sorted(files):
            author, licence = table.get(path, ("unknown", "unknown"))
            if PHOTOGRAPHS.match(path) and Path(path).stem not in REFUSED and FREE.match(licence):
                yield Photo(GCOMPRIS, path, author, licence, files[path])
    for package, table in LOMIRI.items():
        folder = unpack(package) / "usr/share/backgrounds"
        for name, (author, licence) in table.items():
            yield Photo(package, name, author, licence, (folder / name).read_bytes())


def reduced(data: bytes, scales: tuple[float, ...] = (1.0, 0.75, 0.5)) -> Iterator[np.ndarray]:
    """The photograph as uint8 H W 3, reduced to the scale of clean pixels, then by each of `scales`."""
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    longer = max(image.size)
    factor = 1.6 if longer <= 1024 else max(2.0, longer / 1280)
    for scale in scales:
        size = tuple(round(side * scale / factor) for side in image.size)
        if min(size) >= 64:
            yield np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def load() -> list[np.ndarray]:
    """All prepared pictures (uint8 H W 3), several scales of each photograph; prepared at the first call."""
    path = cache_folder() / "photos.npz"
    if not path.exists():
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, *(picture for photo in photos() for picture in reduced(photo.data)))
        partial.replace(path)
    with np.load(path) as archive:
        return [archive[key] for key in archive.files]


def rewrite_table(document: Path) -> None:
    """Replace the table at the end of DATA.md."""
    text = document.read_text(encoding="utf-8") if document.exists() else ""
    rows = "".join(f"| {p.package} | `{p.file}` | {p.author} | {p.licence} |\n" for p in photos())
    head = text.split("| package |")[0]
    table = "| package | file | author | licence |\n| --- | --- | --- | --- |\n" + rows
    document.write_text(head + table, encoding="utf-8")


if __name__ == "__main__":
    load()
    rewrite_table(Path(__file__).with_name("DATA.md"))
