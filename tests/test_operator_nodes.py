"""Operator nodes on the real server: what they give, of what size, and from which files."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image
from server_prompts import (
    EXTRAS,
    Inputs,
    back,
    fit,
    fit_of,
    observe,
    photo,
    png,
    preview,
    prompt,
    shown,
    simulate,
    size_of,
)

from posterior.tools.server import CLONE, PromptError, Server

#: node, its inputs, and the size of its measurement's picture for a 64 x 64 photo
OPERATORS: list[tuple[str, Inputs, tuple[int, int]]] = [
    ("PosteriorIdentity", {}, (64, 64)),
    ("PosteriorInpainting", {"mask": "photo.1"}, (64, 64)),
    ("PosteriorRandomPixels", {"fraction": 0.7, "seed": 2}, (64, 64)),
    ("PosteriorOutpainting", {"left": 8, "top": 0, "right": 16, "bottom": 4}, (40, 60)),
    ("PosteriorMosaic", {"pattern": "GBRG"}, (64, 64)),
    ("PosteriorGaussianBlur", {"sigma": 1.5}, (64, 64)),
    ("PosteriorMotionBlur", {"length": 9, "angle": 30, "boundary": "reflect"}, (64, 64)),
    ("PosteriorCameraShake", {"size": 5, "seed": 3, "boundary": "valid"}, (54, 54)),
    ("PosteriorDefocus", {"radius": 2.5, "boundary": "circular"}, (64, 64)),
    ("PosteriorKernelBlur", {"kernel": "kernel", "boundary": "reflect"}, (64, 64)),
    ("PosteriorVaryingBlur", {"kernels": "kernels", "columns": 2}, (64, 64)),
    ("PosteriorSuperResolution", {"factor": 4, "kernel": "bicubic"}, (16, 16)),
    ("PosteriorSuperResolution", {"factor": 2, "kernel": "box"}, (32, 32)),
    ("PosteriorUpscaleTo", {"image": "small", "width": 64, "height": 64, "kernel": "lanczos"}, (20, 24)),
    ("PosteriorGrayscale", {}, (64, 64)),
    ("PosteriorOverexposure", {"gain": 2.0, "pivot": 0.0}, (64, 64)),
    ("PosteriorGamma", {"gamma": 2.2}, (64, 64)),
    ("PosteriorScale", {"factor": 0.5}, (64, 64)),
    ("PosteriorLevels", {"gain": 0.5, "offset": 0.3, "red": 1.1}, (64, 64)),
    ("PosteriorFewerColours", {"levels": 4, "dither": "ordered", "seed": 0}, (64, 64)),
    ("PosteriorPalette", {"image": "kernel"}, (64, 64)),
    ("PosteriorJPEG", {"quality": 20, "subsampling": "4:2:0"}, (64, 64)),
    ("PosteriorSensing", {"transform": "fourier", "ratio": 0.3, "pattern": "variable density", "seed": 0}, (64, 64)),
    ("PosteriorSinglePixelCamera", {"ratio": 0.2}, (64, 64)),
    ("PosteriorBlockSensing", {"ratio": 0.25, "block": 16, "seed": 0}, (16, 64)),
    ("PosteriorPhaseRetrieval", {"oversampling": 2.0}, (128, 128)),
    ("PosteriorCodedDiffraction", {"masks": 2, "seed": 0}, (128, 64)),
    ("PosteriorCompose", {"first": "blur", "second": "jpeg"}, (64, 64)),
]


@pytest.mark.parametrize(("node", "inputs", "size"), OPERATORS, ids=[f"{n} {i}" for n, i, _ in OPERATORS])
def test_operator_nodes(server: Server, node: str, inputs: Inputs, size: tuple[int, int]) -> None:
    """The clean photo explains its own measurement: residual RMS / sigma_y is 1 up to the draw."""
    extras = {name: EXTRAS[name] for name in EXTRAS if name in inputs.values()}
    made = {"operator": (node, inputs), "m": simulate("operator")}
    outputs = server.run(prompt(photo=photo(), **extras, **made, fit=fit("m"), view=preview("m")))
    assert fit_of(outputs) == pytest.approx(1, abs=0.1)
    assert size_of(server, outputs, "view") == size


def test_a_wanted_side_of_zero_keeps_the_shape(server: Server) -> None:
    """A10: and a stretched picture is not made without a word."""
    for (width, height), size, words in (
        ((64, 0), (64, 77), ""), ((0, 77), (64, 77), ""), ((64, 64), (64, 64), "stretches .* 1\\.20 .*\\(64 x 77\\)"),
    ):  # fmt: skip
        outputs = server.run(
            prompt(
                small=EXTRAS["small"],
                operator=("PosteriorUpscaleTo", {"image": "small", "width": width, "height": height, "kernel": "box"}),
                m=observe("small"),
                back=back("m"),
                view=shown("back"),
            )
        )
        assert size_of(server, outputs, "view") == size
        said = outputs.get("operator", {}).get("text", [""])[0]
        assert bool(said) == bool(words) and re.search(words, said)


def test_a_camera_s_jpeg_is_read_from_its_file(server: Server) -> None:
    """A11: own tables, 4:2:2 and turned by EXIF: what the file says makes its picture of the clean one."""
    clean = np.array(Image.open(CLONE / "photos" / "chelsea.jpg").convert("RGB").resize((120, 88)))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    tables = [[3 + 2 * (i % 8) + 3 * (i // 8) for i in range(64)], [9 + i for i in range(64)]]
    Image.fromarray(clean).save(buffer, "JPEG", qtables=tables, subsampling="4:2:2", exif=exif)
    name = server.upload(buffer.getvalue(), "camera.jpg")
    turned = server.upload(png(np.rot90(clean, -1)))
    nodes = {
        "damaged": ("LoadImage", {"image": name}),
        "clean": ("LoadImage", {"image": turned}),
        "jpeg": ("PosteriorReadJPEG", {"file": name}),
        "m": observe("damaged", 0.0),
        "fit": fit("m", "clean"),
    }
    read, usual = (
        server.run(prompt(**nodes, operator=("PosteriorJPEG", {"quality": 60, "subsampling": "4:2:0", **more})))
        for more in ({"file": "jpeg"}, {})
    )
    assert "4:2:2, turned by 90 degrees" in read["jpeg"]["text"][0]
    right, wrong = (float(re.search(r"residual RMS ([\d.]+)", each["fit"]["text"][0])[1]) for each in (read, usual))
    assert right < 1.5 / 255 < 4 / 255 < wrong
    buffer = io.BytesIO()
    Image.fromarray(clean).save(buffer, "JPEG", keep_rgb=True)
    for content, fault in (
        (png(clean), "is a PNG file; choose"),
        (buffer.getvalue(), "holds red, green and blue; only"),
    ):
        other = prompt(jpeg=("PosteriorReadJPEG", {"file": server.upload(content, "no.jpg")}))
        other["view"] = {"class_type": "PreviewAny", "inputs": {"source": ["jpeg", 1]}}
        with pytest.raises(PromptError, match=f"no.jpg {fault}"):
            server.run(other)


def test_every_operator_node_is_tested(server: Server) -> None:
    operators = {n for n, info in server.object_info().items() if info["category"] == "posterior/operators"}
    assert operators == {node for node, _, _ in OPERATORS}
