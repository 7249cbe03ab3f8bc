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
from ..measurement.noise import GaussianNoise, PoissonNoise
from ..measurement.noise_level import noise_curve
from ..measurement.scratches import scratches
from ..measurement.smooth import harmonic
from ..operators.jpeg import CHROMINANCE, JPEG, LUMINANCE, quantisation_table
from ..photos import PHOTOS, load_damage, load_photo
from ..tests.inside_host import Host
from ..tools import environment

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


def dust(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Forty specks, dark or bright, of radius 0.8 to 3 pixels: where, and how bright."""
    random = np.random.default_rng(seed)
    mask, value = np.zeros((2, size, size), dtype=np.float32)
    rows, columns = np.mgrid[:size, :size]
    for _ in range(40):
        (y, x), radius = random.uniform(0, size, 2), random.uniform(0.8, 3)
        speck = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        mask[speck], value[speck] = 1, random.choice([0.05, 0.95])
    return torch.from_numpy(mask)[None, None], torch.from_numpy(value)[None, None]


MARKS = ("text and scratches", "scratches", "dust")


def marked(kind: str, turn: int) -> tuple[Tensor, Tensor, Tensor]:
    """A photo, with marks on it, and where they are."""
    clean, white = photo(PHOTOS[turn]), torch.ones(1, 1, 1, 1)
    mask, value = dust(SIZE, turn) if kind == "dust" else (load_damage(kind, SIZE)[None], white)
    return clean, torch.where(mask > 0, value, clean), mask


def psnr(x: Tensor, clean: Tensor) -> float:
    return -10 * (x.clamp(0, 1) - clean).square().mean().clamp_min(1e-10).log10().item()


def marks(quick: bool) -> dict[str, float]:
    """Recall and precision of the mask, mean over the photos, what it costs, and the largest mask of a clean one.

    What it costs: PSNR of a smooth filling of the true mask, less that of the one that was found.
    """
    results = {}
    for kind in MARKS:
        rates, losses = [], []
        for turn in range(len(PHOTOS)):
            clean, y, mask = marked(kind, turn)
            found = scratches(y)
            right = (found * mask).sum()
            rates.append(torch.stack([right / mask.sum(), right / found.sum().clamp_min(1)]))
            told, ours = (psnr(harmonic(y, lost == 0), clean) for lost in (mask, found))
            losses.append(told - ours)
        recall, precision = torch.stack(rates).mean(0).tolist()
        results |= {f"{kind}: recall (0.9)": recall, f"{kind}: precision (0.7)": precision}
        results |= {f"{kind}: dB lost in the median": float(np.median(losses))}
        results |= {f"{kind}: photos within 1 dB (10)": sum(loss < 1 for loss in losses)}
    results["largest share marked in a clean photo"] = max(scratches(photo(name)).mean().item() for name in PHOTOS)
    return results


def repaired(quick: bool) -> dict[str, float]:
    """PSNR of *Solve* with the true mask and with the one that was found."""
    host, results = Host(environment.get(None)), {}
    model = host.call("PosteriorPhotoPrior")

    def solved(y: Tensor, mask: Tensor) -> Tensor:
        operator, image = host.call("PosteriorInpainting", mask=mask[:, 0]), y.movedim(1, -1)
        seen = host.call("PosteriorObserve", image=image, operator=operator, sigma_y=0.0)
        return host.call("PosteriorSolve", model=model, measurement=seen, steps=12)[0].movedim(-1, 1)

    for kind in MARKS:
        reached = []
        for turn in range(2 if quick else len(PHOTOS)):
            clean, y, mask = marked(kind, turn)
            runs = solved(y, mask), solved(y, scratches(y))
            reached.append([psnr(x, clean) for x in (y, *runs)])
            print(f"{kind}, {PHOTOS[turn]}: " + " ".join(f"{value:.2f}" for value in reached[-1]), flush=True)
        damaged, told, found = np.array(reached).T
        results |= {
            f"{kind}: damaged": damaged.mean(), f"{kind}: true mask": told.mean(), f"{kind}: found mask": found.mean(),
            f"{kind}: worst loss by the found mask (1)": (told - found).max(),
        }  # fmt: skip
    return results


def noise(quick: bool) -> dict[str, float]:
    """Share of the photos whose gain and read-out noise are within 20 %."""
    results = {}
    for gain, read in ((0.01, 0.02), (0.003, 0.03), (0.0, 0.02)):
        law = PoissonNoise(gain, read) if gain else GaussianNoise(read)
        found = np.array([noise_curve(law.sample(photo(name), 0).clamp(0, 1)) for name in PHOTOS])
        off = np.abs(found - (gain, read))
        results[f"gain {gain}, read {read}: gain (1)"] = (off[:, 0] <= max(0.2 * gain, 5e-4)).mean()
        results[f"gain {gain}, read {read}: read (1)"] = (off[:, 1] <= 0.2 * read).mean()
    return results


PARTS: dict[str, Callable[[bool], dict[str, float]]] = {
    "jpeg": jpeg, "noise": noise, "marks": marks, "repaired": repaired,
}  # fmt: skip


def run_parts(parts: dict[str, Callable[[bool], dict[str, float]]], words: str, quick: str) -> None:
    """The command of a benchmark of parts, which give what was reached of each target.

    Args:
        words: for --help.
        quick: what --quick does.
    """
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--part", choices=parts, action="append", help="only this (may be repeated)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for part in options.part or parts:
        results[part] = parts[part](options.quick)
        for target, reached in results[part].items():
            print(f"{part:10} {target:55} {reached:.3f}", flush=True)
    print(json.dumps(results))


def main() -> None:
    run_parts(PARTS, __doc__, "one offset for each photo, two photos repaired")


if __name__ == "__main__":
    main()
