"""Picture files: pixels of 8 or 16 bits, upright, with EXIF and ICC profile, in and out.

Pillow reads and writes 8 bits a channel only; colours of 16 bits are read with PyAV, which every ComfyUI has, and
written here: PNG (https://www.w3.org/TR/png-3/) and TIFF (https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf).
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin

SUFFIXES = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
SUFFIXES |= {".bmp": "BMP"}
DEEP = ("PNG", "TIFF")  # hold 16 bits
ORIENTATION = 0x0112
# what says how a TIFF file is laid out, and no more about the picture
LAYOUT = {254, 255, *range(256, 260), 262, 266, 273, 277, 278, 279, 284, 297, 317, *range(320, 326), 330, 338, 339, 347}
LAYOUT |= {513, 514, *range(529, 533), 700, 34377, 34675}
SETTINGS = {"JPEG": {"quality": 97, "subsampling": 0}, "WEBP": {"quality": 97}}


@dataclass
class Picture:
    """Attributes:
    values: `H W 3`, uint8 or uint16, upright.
    alpha: `H W` uint8 where the file has it.
    exif: without orientation and layout.
    icc: a profile for RGB, or nothing.
    notes: what could not be kept.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None
    exif: Image.Exif = field(default_factory=Image.Exif)
    icc: bytes = b""
    notes: list[str] = field(default_factory=list)

    @property
    def bits(self) -> int:
        return 8 * self.values.itemsize


def read(path: Path) -> Picture:
    """Raises: OSError, SyntaxError or ValueError where the file is no picture or has several pages."""
    notes: list[str] = []
    with Image.open(path) as image:
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a phone's JPEG with a preview
            raise ValueError(f"it has {image.n_frames} pages; save them as files of their own")
        depth = _depth(image, path)
        if depth > 16 or image.mode == "F":
            raise ValueError(f"it has {depth} bits a channel; save it with 16")
        image.load()
        exif, icc = image.getexif(), image.info.get("icc_profile") or b""
        turn = exif.get(ORIENTATION, 1)
        values, alpha = _deep(image, path) if depth == 16 else (None, None)
        if values is None:
            if depth == 16:
                notes.append("read with 8 bits")
            if "A" in image.getbands() or "transparency" in image.info:
                alpha = np.asarray(image.convert("RGBA").getchannel("A"))
            values, icc = _rgb(image, icc)
        elif icc and icc[16:20] != b"RGB ":
            icc = b""
            notes.append("its profile is not for RGB and was left out")
        for tag in (set(exif) & LAYOUT) | {ORIENTATION}:
            exif.pop(tag, None)
        exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)  # read while the file is open
    return Picture(upright(values, turn), None if alpha is None else upright(alpha, turn), exif, icc, notes)


def read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """`H W` uint8, 255 where the picture is lost."""
    picture = read(path)
    if picture.values.shape[:2] != shape:
        found = "{1} x {0}".format(*picture.values.shape)
        raise ValueError(f"{path.name} is {found} and the picture {shape[1]} x {shape[0]}; make them the same size")
    white = picture.values if picture.bits == 8 else picture.values >> 8
    return white.max(-1).astype(np.uint8)


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turned as the EXIF orientation says, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    values = values[::-1] if orientation in (3, 4, 7, 8) else values
    return np.ascontiguousarray(values[:, ::-1] if orientation in (2, 3, 6, 7) else values)


def encoded(values: np.ndarray, kind: str, exif: Image.Exif | None = None, icc: bytes = b"") -> bytes:
    """A file of this kind (one of SUFFIXES) from `H W 3` of uint8, or of uint16 where it can hold that (DEEP)."""
    exif = exif or Image.Exif()
    if kind == "TIFF":
        return _tiff(values, exif, icc)
    if values.dtype == np.uint16:
        return _png(values, exif, icc)
    stream = io.BytesIO()
    extra = {} if kind == "BMP" else {"exif": exif.tobytes() if len(exif) else b"", "icc_profile": icc or None}
    Image.fromarray(values).save(stream, kind, **extra, **SETTINGS.get(kind, {}))
    return stream.getvalue()


def _depth(image: Image.Image, path: Path) -> int:
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24]
    return max(image.tag_v2.get(258, (8,))) if image.format == "TIFF" else 8


def _deep(image: Image.Image, path: Path) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Values and alpha with 16 bits, or nothing where this kind is not known."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.uint16)
        return np.repeat(grey[..., None], 3, -1), None
    import av

    try:
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
    except av.FFmpegError:  # Pillow knows more kinds of TIFF
        return None, None
    if frame.format.name not in ("rgb48be", "rgb48le", "rgba64be", "rgba64le"):
        return None, None
    values = frame.to_ndarray().astype(np.uint16)
    return values[..., :3], (values[..., 3] >> 8).astype(np.uint8) if values.shape[-1] == 4 else None


def _rgb(image: Image.Image, icc: bytes) -> tuple[np.ndarray, bytes]:
    """Values with 8 bits; colours of another kind (CMYK, grey) become sRGB through their profile."""
    if icc and icc[16:20] != b"RGB " and image.mode in ("L", "CMYK"):
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        image, icc = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"), b""
    return np.asarray(image.convert("RGB")), icc if icc[16:20] == b"RGB " else b""


def _png(values: np.ndarray, exif: Image.Exif, icc: bytes) -> bytes:
    height, width, _ = values.shape
    rows = np.ascontiguousarray(values, ">u2").view(np.uint8).reshape(height, -1)
    rows = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))  # filter 2: less the row above
    lines = np.concatenate([np.full((height, 1), 2, np.uint8), rows], axis=1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))]
    chunks += [(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))] if icc else []
    chunks += [(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))] if len(exif) else []
    chunks += [(b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")]
    body = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _tiff(values: np.ndarray, exif: Image.Exif, icc: bytes) -> bytes:
    height, width, _ = values.shape
    strip = zlib.compress(values.astype(values.dtype.newbyteorder("<")).tobytes(), 6)
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    for tag, value in exif.items():
        directory[tag] = exif.get_ifd(tag) if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo) else value
    layout = {256: width, 257: height, 258: (8 * values.itemsize,) * 3, 259: 8, 262: 2, 273: 0, 277: 3, 278: height}
    for tag, value in {**layout, 279: len(strip), 284: 1, **({34675: icc} if icc else {})}.items():
        directory[tag] = value
    stream = io.BytesIO()
    directory.save(stream)  # moves the strip's offset, 0, to the end of what it writes
    return stream.getvalue() + strip
