"""How a JPEG file was compressed, from its header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, JpegImagePlugin

from ..algebra.refusal import Refusal

#: of JpegImagePlugin.get_sampling
_SAMPLINGS = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
_ORIENTATION = 0x0112
_TURNED = {
    1: "not turned", 2: "mirrored", 3: "turned by 180 degrees", 4: "upside down",
    5: "mirrored and turned by 90 degrees", 6: "turned by 90 degrees",
    7: "mirrored and turned by 270 degrees", 8: "turned by 270 degrees",
}  # fmt: skip


def is_jpeg(name: str) -> bool:
    """Whether a file's name is that of a JPEG."""
    return Path(name).suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif")


def read_jpeg(path: str | Path) -> tuple[dict[str, Any], str]:
    """Settings of `operators.jpeg.JPEG`: tables, subsampling and orientation; and the same in words.

    Raises:
        Refusal: for files that are no JPEG, or of a kind that is not known.
    """
    try:
        with Image.open(path) as image:
            if not isinstance(image, JpegImagePlugin.JpegImageFile):
                raise Refusal(f"{Path(path).name} is a {image.format} file; choose the JPEG file as it came.")
            if image.mode not in ("RGB", "L"):
                raise Refusal(f"{Path(path).name} has {image.mode} colours; only grey and colour JPEG files are known.")
            if image.mode == "RGB" and (image.layer[0][0] == ord("R") or image.info.get("adobe_transform") == 0):
                raise Refusal(
                    f"{Path(path).name} holds red, green and blue; only files of brightness and chroma are known."
                )
            components = {part[0]: part[3] for part in image.layer}
            numbers = sorted(set(components.values()), key=list(components.values()).index)
            tables = [list(image.quantization[number]) for number in numbers]
            subsampling = "4:4:4" if image.mode == "L" else _SAMPLINGS.get(JpegImagePlugin.get_sampling(image))
            orientation = image.getexif().get(_ORIENTATION, 1)
    except OSError as error:
        raise Refusal(f"{Path(path).name} cannot be read as a picture; choose a JPEG file.") from error
    if subsampling is None:
        raise Refusal(f"{Path(path).name} has colours at an unusual size; 4:4:4, 4:2:2 and 4:2:0 are known.")
    orientation = orientation if orientation in _TURNED else 1
    report = f"{subsampling}, {_TURNED[orientation]}; steps of brightness {tables[0][0]} to {max(tables[0])}"
    return {"tables": tables, "subsampling": subsampling, "orientation": orientation}, report
