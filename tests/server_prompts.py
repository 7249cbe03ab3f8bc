"""Prompts for the real server, written node by node, and what is read off their outputs."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from PIL import Image

from posterior.tools.server import Server

Inputs = dict[str, Any]


def prompt(**nodes: tuple[str, Inputs]) -> dict[str, Any]:
    """An API prompt; a link is written "node" (its first output) or "node.1"."""

    def value(given: Any) -> Any:
        name, _, slot = given.partition(".") if isinstance(given, str) else (None, "", "")
        return [name, int(slot or 0)] if name in nodes else given

    return {
        name: {"class_type": kind, "inputs": {key: value(given) for key, given in inputs.items()}}
        for name, (kind, inputs) in nodes.items()
    }


def photo(size: int = 64) -> tuple[str, Inputs]:
    return "PosteriorExamplePhoto", {"photo": "chelsea", "damage": "text and scratches", "size": size}


def simulate(operator: str, sigma: float = 0.05, image: str = "photo", **more: Any) -> tuple[str, Inputs]:
    return "PosteriorSimulate", {"image": image, "operator": operator, "sigma_y": sigma, "seed": 1, **more}


def observe(image: str, sigma: float = 0.05, **more: Any) -> tuple[str, Inputs]:
    return "PosteriorObserve", {"image": image, "operator": "operator", "sigma_y": sigma, **more}


def fit(measurement: str, image: str = "photo") -> tuple[str, Inputs]:
    return "PosteriorMeasurementFit", {"image": image, "measurement": measurement}


def preview(measurement: str) -> tuple[str, Inputs]:
    return "PosteriorPreviewMeasurement", {"measurement": measurement}


def shown(image: str) -> tuple[str, Inputs]:
    return "PreviewImage", {"images": image}


def back(measurement: str, kind: str = "back-projection") -> tuple[str, Inputs]:
    return "PosteriorBackProjection", {"measurement": measurement, "kind": kind}


def fit_of(outputs: dict[str, Any], node: str = "fit") -> float:
    return float(re.match(r"fit ([\d.]+)", outputs[node]["text"][0])[1])


def size_of(server: Server, outputs: dict[str, Any], node: str) -> tuple[int, int]:
    return Image.open(io.BytesIO(server.view(outputs[node]["images"][0]))).size


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


EXTRAS: dict[str, tuple[str, Inputs]] = {
    "kernel": ("EmptyImage", {"width": 5, "height": 3, "batch_size": 1, "color": 0xFFFFFF}),
    "kernels": ("EmptyImage", {"width": 3, "height": 3, "batch_size": 4, "color": 0x808080}),
    "small": ("EmptyImage", {"width": 20, "height": 24, "batch_size": 1, "color": 0}),
    "blur": ("PosteriorGaussianBlur", {"sigma": 1.0}),
    "jpeg": ("PosteriorJPEG", {"quality": 50, "subsampling": "4:4:4"}),
}


def mask(value: float, size: int = 64) -> tuple[str, Inputs]:
    return "SolidMask", {"value": value, "width": size, "height": size}


def batch(image: str, amount: int) -> tuple[str, Inputs]:
    return "RepeatImageBatch", {"image": image, "amount": amount}
