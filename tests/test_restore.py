"""A folder of pictures through one workflow: files, graph and ledger by themselves, then runs on the real server."""

from __future__ import annotations

import contextlib
import csv
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from posterior.photos import load_photo
from posterior.tools import pixels, restore, restore_graph, restore_workers
from posterior.tools.console import Failure
from posterior.tools.restore_ledger import FIELDS, Ledger
from posterior.tools.server import CLONE, free_port

WORKFLOW = CLONE / "workflows" / "inpaint_photo.json"
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (7, 9, 3), dtype=np.uint16)


def exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    exif[0x8769] = exif.get_ifd(0x8769)
    return exif


@pytest.mark.parametrize("kind, suffix", [("PNG", ".png"), ("TIFF", ".tif"), ("JPEG", ".jpg"), ("WEBP", ".webp")])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_file_keeps_pixels_exif_and_profile(tmp_path, kind, suffix, bits):
    if bits == 16 and kind not in pixels.DEEP:
        return
    values = DEEP if bits == 16 else (DEEP >> 8).astype(np.uint8)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(pixels.encoded(values, kind, exif(), ICC))
    with Image.open(path) as image:
        assert image.info["icc_profile"] == ICC and image.getexif()[0x010F] == "Maker"
        assert image.getexif().get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
    found = pixels.read(path)
    assert found.bits == bits and found.icc == ICC and found.exif[0x010F] == "Maker"
    if kind in pixels.DEEP:  # the others lose a little
        assert np.array_equal(found.values, values)
    if kind == "TIFF":
        assert np.array_equal(tifffile.imread(path), values)


def test_other_peoples_16_bits(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", DEEP)
    assert np.array_equal(pixels.read(tmp_path / "x.tif").values, DEEP)
    for name in ("grey.png", "grey.tif"):
        Image.fromarray(DEEP[..., 0]).save(tmp_path / name)
        assert np.array_equal(pixels.read(tmp_path / name).values, np.repeat(DEEP[..., :1], 3, -1))


def test_numbers_of_32_bits_are_refused(tmp_path):
    Image.fromarray(DEEP[..., 0].astype(np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match="32 bits"):
        pixels.read(tmp_path / "x.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(tmp_path, orientation):
    image = Image.fromarray((DEEP >> 8).astype(np.uint8))
    image.getexif()[0x0112] = orientation
    image.save(tmp_path / "x.png", exif=image.getexif())
    found = pixels.read(tmp_path / "x.png")
    assert np.array_equal(found.values, np.asarray(ImageOps.exif_transpose(image))) and 0x0112 not in found.exif


@pytest.fixture(scope="module")
def info(server) -> dict:
    return server.object_info()


def graph(**changes: dict) -> dict:
    """A prompt: a picture with its mask, what is done with it, and three pictures shown."""
    nodes = {
        "1": ("LoadImage", {"image": "x.png"}),
        "2": ("PosteriorInpainting", {"mask": ["1", 1]}),
        "3": ("ImageInvert", {"image": ["1", 0]}),
        "4": ("PreviewImage", {"images": ["1", 0]}),
        "5": ("SaveImage", {"images": ["3", 0], "filename_prefix": "x/repaired"}),
        "6": ("SaveImage", {"images": ["1", 0], "filename_prefix": "x/damaged"}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in (nodes | changes).items() if kind}


def test_the_picture_takes_the_place_of_the_loader(info):
    prompt = graph()
    assert restore_graph.ends(prompt) == ("1", "5") and restore_graph.wants_mask(prompt, "1")
    filled = restore_graph.filled(prompt, "1", "5", ["a"], "m", info, deep=False)
    assert prompt == graph()  # for the next picture
    assert set(filled) == {"2", "3", "5", "restore_picture0", "restore_mask"}
    assert filled["3"]["inputs"]["image"] == ["restore_picture0", 0]
    assert filled["2"]["inputs"]["mask"] == ["restore_mask", 0]
    filled = restore_graph.filled(prompt, "1", "5", ["a", "b"], None, info, deep=True)
    assert filled["3"]["inputs"]["image"] == ["restore_whole", 0] and filled["5"]["class_type"] == "SaveLatent"
    for node in filled.values():
        assert set(info[node["class_type"]]["input"].get("required", {})) <= set(node["inputs"])


def test_what_cannot_be_told_is_asked(info):
    with pytest.raises(Failure, match="--picture ID"):
        restore_graph.ends(graph(**{"7": ("LoadImage", {"image": "y.png"})}))
    with pytest.raises(Failure, match="5 .SaveImage., 6 .SaveImage.*--result ID"):
        restore_graph.ends(graph(**{"5": ("SaveImage", {"images": ["3", 0], "filename_prefix": "a"})}))
    assert restore_graph.ends(graph(**{"7": ("LoadImage", {})}), "7", "4") == ("7", "4")
    with pytest.raises(Failure, match="no workflow"):
        restore_graph.prompt_of({"version": 1}, info)
    with pytest.raises(Failure, match="no node Nobody"):
        restore_graph.prompt_of(graph(**{"7": ("Nobody", {})}), info)


def test_reports_are_read(info):
    method, nothing = "restoration by DDNM, kept", {"fit": "", "residual": "", "method": ""}
    for text, name, number in (
        ("fit 0.812 (expected for a restoration: 0.3 to 1.2): agrees.", "fit", "0.812"),
        ("residual RMS 3.1e-05 (white is 1): agrees.", "residual", "3.1e-05"),
    ):
        outputs = {"5": {"text": [f"{text}\n{method}; 12 steps"]}, "7": {"images": []}}
        assert restore_graph.said(outputs) == {**nothing, "method": method, name: number}
    assert restore_graph.said({}) == nothing
    blocks = graph(**{"7": ("PosteriorDPS", {})})
    assert restore_graph.guided_by(blocks, info) == info["PosteriorDPS"]["display_name"]


def test_the_bar_says_the_time_left():
    assert restore.bar(5, 10, 0, 20.0, 2) == "[##########..........] 5 of 10, 0:50 left"
    assert restore.bar(10, 1000, 1, 100.0, 10) == "[....................] 10 of 1000, 1 failed, 2 h 45 min left"
    assert restore.bar(3, 3, 0, 9.0, 3) == "[####################] 3 of 3"


def test_pictures_without_masks_results_and_hidden_ones(tmp_path):
    for name in ("b.JPG", "a/x.png", "a/x.mask.png", ".hidden/y.png", "out/z.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert restore.pictures(tmp_path, tmp_path / "out") == [Path("a/x.png"), Path("b.JPG")]
    with pytest.raises(Failure, match="--out"):
        restore.restore(tmp_path, tmp_path, WORKFLOW, [], (None, None))


def test_the_ledger_survives_a_kill_at_every_instant(tmp_path):
    with Ledger(tmp_path, {"a": 1}) as ledger:
        ledger.keep("sub/done.png", [b"1", b"2"], {"fit": 1})
        ledger.note({"picture": "bad.png", "status": "failed", "note": "two\nlines"})
        ledger.note({"picture": "unnamed.png", "status": "restored", "fit": 2})
        with pytest.raises(Failure, match="Another run"):
            Ledger(tmp_path, {"a": 1})
    (tmp_path / ".unnamed.png.part").write_bytes(b"3")  # killed between the row and the name
    (tmp_path / ".torn.png.part").write_bytes(b"4")  # killed before the row
    with ledger.path.open("ab") as file:
        file.write(b"torn.png,restored,0.")  # killed in the row
    with Ledger(tmp_path, {"a": 1}) as ledger:
        assert [row["picture"] for row in ledger.rows()] == ["sub/done.png", "unnamed.png"]
        assert ledger.is_done("unnamed.png") and ledger.is_done("sub/done.png") and not ledger.is_done("torn.png")
    assert (tmp_path / "unnamed.png").read_bytes() == b"3" and (tmp_path / "sub" / "done.2.png").read_bytes() == b"2"
    assert not list(tmp_path.rglob("*.part"))
    with pytest.raises(Failure, match="another workflow"):
        Ledger(tmp_path, {"a": 2})


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three small pictures with scratches (a JPEG lying on its side, a TIFF and a PNG of 16 bits), and a broken one."""
    folder = tmp_path / "scans"
    (folder / "sub").mkdir(parents=True)
    photo = load_photo("chelsea", 64)[0].double().numpy()[:48]
    deep = np.rint(photo * 65535).astype(np.uint16)
    mask = np.zeros((48, 64), np.uint8)
    mask[20:23] = 255
    side = exif()
    side[0x0112] = 6
    image = Image.fromarray((np.rot90(deep) >> 8).astype(np.uint8))
    image.save(folder / "a.jpg", exif=side, icc_profile=ICC, quality=95)
    (folder / "sub" / "b.tif").write_bytes(pixels.encoded(deep, "TIFF", exif(), ICC))
    (folder / "c.png").write_bytes(pixels.encoded(deep, "PNG", exif(), ICC))
    for name in ("a", "sub/b", "c", "broken"):
        Image.fromarray(mask).save(folder / f"{name}.mask.png")
    (folder / "broken.png").write_bytes((folder / "c.png").read_bytes()[:60])
    return folder


def command(folder: Path, *more: str) -> list[str]:
    package = str(CLONE / "tools" / "package.py")
    return [sys.executable, package, "posterior.tools.restore", str(folder), "--workflow", str(WORKFLOW), *more]


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "restore.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert len({row["picture"] for row in found}) == len(found) and set(found[0]) == set(FIELDS)
    return {row["picture"]: row for row in found}


class Mortal:
    """A server that dies: an address that leads to the real one until the first prompt is queued there."""

    def __init__(self, port: int) -> None:
        self.real, self.died = port, threading.Event()
        self.door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.door.getsockname()[1]}"
        threading.Thread(target=self._open, daemon=True).start()

    def _open(self) -> None:
        with contextlib.suppress(OSError):  # the door is shut
            while True:
                caller, _ = self.door.accept()
                threading.Thread(target=self._lead, args=(caller,), daemon=True).start()

    def _lead(self, caller: socket.socket) -> None:
        with caller, socket.create_connection(("127.0.0.1", self.real)) as real:
            back = threading.Thread(target=self._copy, args=(real, caller), daemon=True)
            back.start()
            self._copy(caller, real)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
                if data.startswith(b"POST /prompt"):
                    self.died.set()
                    self.door.shutdown(socket.SHUT_RDWR)
                    self.door.close()
                    return source.shutdown(socket.SHUT_RDWR)
            target.shutdown(socket.SHUT_WR)


def test_what_a_dead_server_had_goes_to_another(server, folder, capsys):
    mortal, out = Mortal(server.port), folder.with_name("out")
    assert restore.restore(folder, out, WORKFLOW, [mortal.url, server.url], (None, None)) == 1
    assert mortal.died.is_set() and "3 restored, 1 failed" in capsys.readouterr().out
    table = rows(out)
    assert {row["server"] for row in table.values() if row["status"] == "restored"} == {server.url}
    assert mortal.url not in table["broken.png"]["note"]
    alone = Mortal(server.port)
    (out / "c.png").unlink()
    restore_workers.PATIENCE, patience = 0.5, restore_workers.PATIENCE
    try:
        with pytest.raises(Failure, match="1 of the pictures are left and no server"):
            restore.restore(folder, out, WORKFLOW, [alone.url], (None, None))
    finally:
        restore_workers.PATIENCE = patience


def test_a_run_is_killed_and_goes_on(server, folder):
    originals = {path: path.read_bytes() for path in folder.rglob("*.*")}
    out, dead = folder.with_name("scans_restored"), f"127.0.0.1:{free_port()}"
    first = subprocess.Popen(command(folder, "--server", server.url), stdout=subprocess.DEVNULL)
    while first.poll() is None and not list(out.glob("[ac].*")):
        time.sleep(0.02)
    first.kill()
    first.wait()
    made = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("[a-c].*")}
    assert made
    second = subprocess.run(command(folder, "--server", server.url, dead), capture_output=True, text=True)
    assert second.returncode == 1 and f"{len(made)} of them done before" in second.stdout, second.stderr
    assert "3 restored, 1 failed" in second.stdout
    assert all((path.read_bytes(), path.stat().st_mtime_ns) == before for path, before in made.items())
    table = rows(out)
    assert {name: row["status"] for name, row in table.items()} == {
        "a.jpg": "restored", "sub/b.tif": "restored", "c.png": "restored", "broken.png": "failed"
    }  # fmt: skip
    assert table["broken.png"]["note"]
    for name, bits in (("a.jpg", 8), ("sub/b.tif", 16), ("c.png", 16)):
        row, before, after = table[name], pixels.read(folder / name), pixels.read(out / name)
        assert int(row["bits"]) == after.bits == bits and row["server"] == server.url and float(row["seconds"]) < 600
        assert "restoration by" in row["method"] and float(row["residual"] or row["fit"]) < 1.3
        assert after.icc == ICC and after.exif[0x010F] == "Maker" and 0x0112 not in after.exif
        assert after.exif.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
        kept = np.ones((48, 64), bool)
        kept[20:23] = False
        change = np.abs(after.values.astype(float) - before.values)
        assert change[kept].max() <= (1 if bits == 16 else 12)  # JPEG loses a little again
        assert change[~kept].mean() > 0
    assert np.array_equal(pixels.read(out / "sub" / "b.tif").values, pixels.read(out / "c.png").values)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == originals
    assert not list(out.rglob("*.part"))
