"""Pictures of Pillow and tensors, one as the other."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def pil(x: Tensor) -> Image.Image:
    return Image.fromarray((x[0].movedim(0, -1) * 255).round().byte().numpy())


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32) / 255).movedim(-1, 0)[None]


def saved(x: Tensor, **settings) -> Image.Image:
    buffer = io.BytesIO()
    pil(x).save(buffer, "JPEG", **settings)
    return Image.open(buffer)
