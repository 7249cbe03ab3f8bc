"""What can be read off a damaged picture, beside what was done to it: ten held-out photos of 256 pixels.

    python dev.py bench blind [--quick]

Nothing was tuned on these photos. Prints each target and what was reached; JSON last.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..measurement.jpeg_tables import compression
from ..operators.jpeg import CHROMINANCE, JPEG, LUMINANCE, quantisation_table
from ..photos import PHOTOS, load_photo

SIZE = 256
ZIGZAG = sorted(range(64), key=lambda k: (k // 8 + k % 8, k // 8 if (k // 8 + k % 8) % 2 else k % 8))
OFFSETS = ((0, 0), (3, 5), (9, 12))


def photo(name: str, size: int = SIZE) -> Tensor:
    return load_photo(name, size).movedim(-1, 1)


def saved(x: Tensor, quality: int, subsampling: str, offset: tuple[int, int] = (0, 0)) -> Tensor:
    """A picture that Pillow has saved and loaded, cut at the left and the top."""
    buffer, pixels = io.BytesIO(), (255 * x[0].movedim(0, -1)).round().byte().numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    loaded = np.array(Image.open(buffer).convert("RGB"), dtype=np.float32)[offset[1] :, offset[0] :]
    return torch.from_numpy(loaded / 255).movedim(-1, 0)[None]


def jpeg(quick: bool) -> dict[str, float]:
    """Share of the ten lowest table entries, of chroma with offset, and of whole tables that are right."""
    lowest, places, chroma, runs = 0, 0, 0, 0
    for turn, name in enumerate(PHOTOS):
        for q in (10, 30, 50, 75, 90):
            for s, subsampling in enumerate(("4:4:4", "4:2:0")):
                for offset in [OFFSETS[(turn + q + s) % 3]] if quick else OFFSETS:
                    found = compression(saved(photo(name), q, subsampling, offset))
                    period = [8 * n for n in JPEG.SUBSAMPLINGS[subsampling]]
                    truth = [quantisation_table(base, q).flatten().tolist() for base in (LUMINANCE, CHROMINANCE)]
                    runs += 1
                    if found is None:
                        continue
                    lowest += sum(found.tables[0][k] == truth[0][k] for k in ZIGZAG[:10])
                    chroma += list(found.tables[1]) == truth[1]
                    places += (found.subsampling, found.offset) == (
                        subsampling, (offset[0] % period[1], offset[1] % period[0]),
                    )  # fmt: skip
    clean = sum(compression(photo(name)) is None for name in PHOTOS)
    return {
        "ten lowest entries (0.95)": lowest / (10 * runs), "chroma and offset": places / runs,
        "table of chroma": chroma / runs, "clean photos without JPEG, of 10": clean,
    }  # fmt: skip


PARTS: dict[str, Callable[[bool], dict[str, float]]] = {"jpeg": jpeg}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one offset for each photo")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this (may be repeated)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for part in options.part or PARTS:
        results[part] = PARTS[part](options.quick)
        for target, reached in results[part].items():
            print(f"{part:10} {target:45} {reached:.3f}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
