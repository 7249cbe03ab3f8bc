"""Damaged copies of the photographs, as other programs leave them; examples for nodes, workflows and tests.

python tools/package.py posterior.photos.damaged      # made photos/damaged/ once
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from torch import Tensor

_FOLDER = Path(__file__).parent
#: what happened in words, the file, and of which photo it is
DAMAGED = {
    "scratches and lettering": ("scratched.png", "chelsea"),
    "out of focus": ("blurred.png", "china"),
    "camera moved": ("moved.png", "cathedral"),
    "grain": ("grainy.png", "red_panda"),
    "JPEG blocks (quality 15)": ("blocks.jpg", "flower"),
    "too small (a quarter)": ("small.png", "coffee"),
    "blotches": ("blotchy.png", "rocket"),
    "faded, torn and dusty, black and white": ("faded.png", "astronaut"),
    "camera shook": ("shook.png", "china"),
}
SIDE = 192  # of the clean photo, in pixels; what is too small has a quarter of it


def load_damaged(name: str) -> tuple[Tensor, Tensor]:
    """A damaged photo, `1 H W 3` in [0, 1], and a mask `1 H W`, 1 where a pixel is lost (all 0 where none is)."""
    path = _FOLDER / "damaged" / DAMAGED[name][0]
    with Image.open(path) as picture:
        image = np.array(picture.convert("RGB"), dtype=np.float32) / 255
    hole = path.with_name(f"{path.stem}_mask.png")
    if not hole.exists():
        return torch.from_numpy(image)[None], torch.zeros(1, *image.shape[:2])
    with Image.open(hole) as mask:
        return torch.from_numpy(image)[None], (torch.from_numpy(np.array(mask.convert("L"))) > 127).float()[None]


def _clean(name: str, margin: int = 0) -> Image.Image:
    """The middle square that `load_photo(name, SIDE)` gives, with so many pixels more to the left and the right."""
    with Image.open(_FOLDER / f"{name}.jpg") as photo:
        rgb = photo.convert("RGB")
    if not margin:
        return ImageOps.fit(rgb, (SIDE, SIDE), Image.Resampling.LANCZOS)
    more, left = margin * rgb.height / SIDE, (rgb.width - rgb.height) / 2
    box = (left - more, 0, left + rgb.height + more, rgb.height)
    return rgb.resize((SIDE + 2 * margin, SIDE), Image.Resampling.LANCZOS, box)


def _grain(picture: Image.Image, sigma: float, seed: int, length: float = 0.0) -> Image.Image:
    """With noise of a deviation sigma; a Gaussian of so many pixels makes blotches of it."""
    x = np.asarray(picture, dtype=np.float64)
    noise = np.random.default_rng(seed).standard_normal(x.shape)
    if length:
        frequency = [2 * np.pi * np.fft.fftfreq(n) for n in x.shape[:2]]
        blur = np.exp(-(length**2) * (frequency[0][:, None] ** 2 + frequency[1] ** 2) / 2)
        noise = np.fft.ifft2(np.fft.fft2(noise, axes=(0, 1)) * blur[..., None], axes=(0, 1)).real
        noise /= np.sqrt((blur**2).mean())
    x = x + 255 * sigma * noise
    return Image.fromarray(x.round().clip(0, 255).astype(np.uint8))


def _scratched(picture: Image.Image) -> tuple[Image.Image, Image.Image]:
    """White strokes and words over a photo, and a mask as a hand would paint it: a pixel wider all around."""
    mask = Image.new("L", picture.size)
    draw, random = ImageDraw.Draw(mask), np.random.default_rng(7)
    for _ in range(6):
        points = [tuple(point) for point in random.uniform(0, SIDE, (2, 2))]
        middle = tuple(np.mean(points, 0) + random.uniform(-20, 20, 2))
        draw.line([points[0], middle, points[1]], fill=255, width=2)
    draw.text((14, 150), "Summer 1987", fill=255, font=ImageFont.load_default(26))
    damaged = Image.composite(Image.new("RGB", picture.size, (245, 245, 238)), picture, mask)
    return damaged, mask.filter(ImageFilter.MaxFilter(3)).point(lambda value: 255 * (value > 20))


def _faded(picture: Image.Image) -> Image.Image:
    """A grey print whose black is 0.35 and white 0.75, with grain, forty specks of dust, and a piece torn off."""
    grey, random = np.asarray(picture.convert("L"), dtype=np.float64) / 255, np.random.default_rng(5)
    y = 0.35 + 0.4 * grey + 0.02 * random.standard_normal(grey.shape)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for _ in range(40):
        (row, column), radius = random.uniform(0, SIDE, 2), random.uniform(0.8, 2)
        y[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = random.choice([0.05, 0.95])
    edge = 30 + np.cumsum(random.integers(-1, 2, 64))
    for row in range(64):
        y[row, edge[row] : edge[row] + 40] = 1.0
    return Image.fromarray((255 * y).round().clip(0, 255).astype(np.uint8))


def _shook(picture: Image.Image) -> Image.Image:
    """Blurred by a path of 17 pixels."""
    from ..operators.convolution import convolution
    from ..operators.kernels import camera_shake

    x = torch.from_numpy(np.asarray(picture, dtype=np.float32)).movedim(-1, 0)[None]
    y = convolution(camera_shake(8.0, 5)).forward(x)[0].movedim(0, -1)
    return Image.fromarray(y.round().clamp(0, 255).byte().numpy())


def main() -> None:
    folder = _FOLDER / "damaged"
    folder.mkdir(exist_ok=True)
    clean = {file: _clean(photo) for file, photo in DAMAGED.values()}
    damaged, mask = _scratched(clean["scratched.png"])
    damaged.save(folder / "scratched.png")
    mask.convert("1").save(folder / "scratched_mask.png")
    _grain(clean["blurred.png"].filter(ImageFilter.GaussianBlur(2)), 0.01, 1).save(folder / "blurred.png")
    wide = np.asarray(_clean(DAMAGED["camera moved"][1], 8), dtype=np.float64)
    smeared = np.mean([wide[:, 8 + shift : 8 + shift + SIDE] for shift in range(-5, 6)], 0)
    _grain(Image.fromarray(smeared.round().astype(np.uint8)), 0.01, 2).save(folder / "moved.png")
    _grain(_shook(clean["shook.png"]), 0.01, 6).save(folder / "shook.png")
    _grain(clean["grainy.png"], 0.1, 3).save(folder / "grainy.png")
    _grain(clean["blotchy.png"], 0.08, 4, 1.0).save(folder / "blotchy.png")
    _faded(clean["faded.png"]).save(folder / "faded.png")
    clean["blocks.jpg"].save(folder / "blocks.jpg", quality=15)
    clean["small.png"].resize((SIDE // 4, SIDE // 4), Image.Resampling.BICUBIC).save(folder / "small.png")


if __name__ == "__main__":
    main()
