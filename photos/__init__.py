"""Held-out photographs and masks of damage, for examples, tests and benchmarks; see README.md for their sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

_FOLDER = Path(__file__).parent
PHOTOS = sorted(path.stem for path in _FOLDER.glob("*.jpg"))
DAMAGES = ["text and scratches", "scratches"]


def load_photo(name: str, size: int) -> Tensor:
    """The middle square of a photo, reduced to `size` pixels: `1 size size 3` in [0, 1]."""
    with Image.open(_FOLDER / f"{name}.jpg") as photo:
        square = ImageOps.fit(photo.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square, dtype=np.float32) / 255)[None]


def load_damage(name: str, size: int) -> Tensor:
    """A mask of damage, `1 size size`, 1 where a pixel is lost; lines keep their width at every size."""
    with Image.open(_FOLDER / f"{name.replace(' ', '_')}.png") as mask:
        corner = np.array(mask.convert("L").crop((0, 0, size, size)), dtype=np.float32)
    return torch.from_numpy(corner > 127).float()[None]
