"""Pictures of Pillow and tensors, one as the other."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor


def pil(x: Tensor) -> Image.Image:
    return Image.fromarray((x[0].movedim(0, -1) * 255).round().byte().numpy())


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32) / 255).movedim(-1, 0)[None]


def saved(x: Tensor, **settings) -> Image.Image:
    buffer = io.BytesIO()
    pil(x).save(buffer, "JPEG", **settings)
    return Image.open(buffer)


def drawing() -> Tensor:
    """Flat colours with hard edges, 160 x 160."""
    page = Image.new("RGB", (160, 160), (250, 220, 120))
    pen = ImageDraw.Draw(page)
    pen.ellipse((20, 25, 120, 130), (220, 60, 60), (10, 10, 10), 4)
    pen.polygon([(8, 150), (75, 70), (150, 140)], (40, 160, 90))
    pen.rectangle((90, 10, 150, 55), (60, 60, 200))
    return tensor(page)
