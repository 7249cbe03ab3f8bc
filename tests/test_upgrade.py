"""Workflows of the first version, as they were shared then, run and give the pictures that they gave then."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posterior.tools.workflow import to_prompt

FOLDER = Path(__file__).parent / "upgrade"
#: PSNR in dB to the thumbnail of then (a JPEG whose right half is the result); JPEG has another path now, see CHANGELOG
ALIKE = {"missing_pixels": 33, "super_resolution": 33, "demosaic_raw": 33, "colorize_hints": 33, "jpeg_photo": 26}


def right_half(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    values = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)) / 255
    return values[:, size[0] // 2 + 4 :]


@pytest.mark.parametrize("name", ALIKE)
def test_a_workflow_of_the_first_version_gives_its_picture(server, name):
    prompt = to_prompt(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")), server.object_info())
    outputs = server.run(prompt)
    (saved,) = [key for key, node in prompt.items() if node["class_type"] == "SaveImage"]
    content = server.images({"": outputs[saved]})[0]
    with Image.open(FOLDER / f"{name}.jpg") as then, Image.open(io.BytesIO(content)) as now:
        error = right_half(now, then.size) - right_half(then, then.size)
    assert -10 * np.log10(np.square(error).mean()) > ALIKE[name]


def test_there_is_nothing_else():
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.{kind}" for name in ALIKE for kind in ("json", "jpg")}
