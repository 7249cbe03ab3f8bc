"""What blur is read off a picture, and what size it had: ten held-out photos of 256 pixels, 8 bits.

    python dev.py bench blind_blur [--quick | --learn N]

Nothing was tuned on these photos. Motion has another angle on each. Prints each target and what was reached, a share of
the photos; JSON last. `--learn` prints what was learned from N training photographs instead: the table `SHARP` of
`measurement/spectrum.py`, how wide a Gaussian undamaged ones look beside blurred ones, and how often the kind is right
beside what the confidence says.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..guidance.diffpir import PHOTOS as DEVIATION
from ..guidance.diffpir import DiffPIR
from ..measurement.blur_estimate import KERNELS, BlurEstimate, estimate_blur, log_likelihood
from ..measurement.measurement import Measurement
from ..measurement.noise import ROUNDING, GaussianNoise
from ..measurement.plain_noise import estimated_level
from ..measurement.quality import psnr
from ..measurement.spectrum import SHARP, Spectrum, harmonics
from ..measurement.true_size import true_size
from ..operators.convolution import convolution
from ..operators.identity import Identity
from ..operators.kernels import gaussian
from ..photos import PHOTOS, load_photo
from ..priors.photo_data import load, reduced
from ..priors.photo_data import photos as sources
from ..samplers.annealed import AnnealedRestoration
from .blind import saved
from .blind_kernels import restored
from .prior import photo_prior

SIZE, NOISES = 256, (0.0, 0.01, 0.02)
BLURS = [("none", 0.0), *(("gaussian", s) for s in (1.0, 2.0, 3.0)), *(("defocus", r) for r in (2.0, 4.0, 6.0)),
         *(("motion", n) for n in (7.0, 15.0, 25.0))]  # fmt: skip


def recorded(x: Tensor, kind: str, theta: tuple[float, ...], noise: float, seed: int) -> Tensor:
    """Blurred, noisy, and in 8 bits."""
    y = x if kind == "none" else convolution(KERNELS[kind](*theta)).forward(x)
    y = y + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
    return (255 * y.clamp(0, 1)).round() / 255


def near(kind: str, theta: tuple[float, ...], found: tuple[float, ...]) -> bool:
    """Within 15 % (Gaussian), 0.5 pixels (disk), 10 % and 6 degrees (motion)."""
    off = abs(found[0] - theta[0])
    if kind == "motion":
        return off <= 0.1 * theta[0] and abs((found[1] - theta[1] + 90) % 180 - 90) <= 6
    return off <= (0.15 * theta[0] if kind == "gaussian" else 0.5)


def cases(photos: list[Tensor], quick: bool) -> Iterator[tuple[str, tuple[float, ...], float, BlurEstimate]]:
    """What was done and what was found; quick: each photo and blur with one level of noise."""
    for turn, photo in enumerate(photos):
        for place, (kind, size) in enumerate(BLURS):
            theta = (size, (37 * turn + 50 * place) % 180) if kind == "motion" else (size,)
            for noise in [NOISES[(turn + place) % 3]] if quick else NOISES:
                yield kind, theta, noise, estimate_blur(recorded(photo, kind, theta, noise, turn))


def blurs(quick: bool) -> dict[str, float]:
    rows = list(cases([load_photo(name, SIZE).movedim(-1, 1) for name in PHOTOS], quick))
    results = {"kind (0.9)": np.mean([kind == found.kind for kind, _, _, found in rows])}
    for kind, size in BLURS:
        for noise in NOISES:
            own = [(theta, found) for k, theta, n, found in rows if (k, theta[0], n) == (kind, size, noise)]
            right = [found.kind == kind for _, found in own]
            name = f"{kind} {size:g}, noise {noise:g}" if size else f"sharp, noise {noise:g}"
            results[f"{name}: kind"] = np.mean(right)
            if size:
                close = [found.kind == kind and near(kind, theta, found.parameters) for theta, found in own]
                results[f"{name}: kind and parameters"] = np.mean(close)
    results["confidence, mean"] = np.mean([found.confidence for *_, found in rows])
    return {name: float(value) for name, value in results.items()}


FILTERS = {
    "nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}  # fmt: skip


def sizes(quick: bool) -> dict[str, float]:
    """Enlarged by Pillow, as PNG and as JPEG of quality 90: share whose size is right; and false alarms."""
    results, factors = {}, (1.25, 1.4, 1.5, 1.8, 2.0, 2.5, 3.0, 4.0)
    photos = [load_photo(name, SIZE).movedim(-1, 1) for name in PHOTOS]
    for place, (name, filtered) in enumerate(FILTERS.items()):
        right = {"PNG": [], "JPEG 90": []}
        for turn, photo in enumerate(photos):
            for factor in [factors[(turn + place) % 8]] if quick else factors:
                m = round(SIZE / factor)
                whole = Image.fromarray((255 * photo[0].movedim(0, -1)).round().byte().numpy())
                large = whole.resize((m, m), Image.Resampling.LANCZOS).resize((SIZE, SIZE), filtered)
                y = torch.from_numpy(np.array(large, dtype=np.float32) / 255).movedim(-1, 0)[None]
                for kind, each in (("PNG", y), ("JPEG 90", saved(y, 90, "4:2:0"))):
                    found = true_size(each)
                    right[kind].append(found is not None and found.size == (m, m))
        results |= {f"enlarged, {name}, {kind}: size": np.mean(each) for kind, each in right.items()}
    others = {
        "clean": lambda x: x, "JPEG 30": lambda x: saved(x, 30, "4:2:0"), "JPEG 75": lambda x: saved(x, 75, "4:2:0"),
        "Gaussian 2": lambda x: recorded(x, "gaussian", (2.0,), 0.0, 0),
        "disk 3": lambda x: recorded(x, "defocus", (3.0,), 0.0, 0),
    }  # fmt: skip
    for name, change in others.items():
        alarms = [true_size(change(photo)) is not None for photo in photos]
        results[f"not enlarged, {name}: said enlarged (0)"] = np.mean(alarms)
    return {name: float(value) for name, value in results.items()}


def repaired(quick: bool) -> dict[str, float]:
    """PSNR after `restored` of *Blind Sampler*'s benchmark with what was found, beside that of the run that is told."""
    prior, rows = photo_prior(), []
    damages = [blur for blur in BLURS if blur[1]]
    for turn, name in enumerate(PHOTOS):
        clean = load_photo(name, SIZE).movedim(-1, 1)
        for kind, size in [damages[turn % len(damages)]] if quick else damages:
            theta = (size, 37 * turn % 180) if kind == "motion" else (size,)
            y = recorded(clean, kind, theta, 0.01, turn)
            noise = GaussianNoise(max(estimated_level(y), ROUNDING))
            scores = [psnr(y, clean).item()]
            for operator in (convolution(KERNELS[kind](*theta)), estimate_blur(y).operator or Identity()):
                block = DiffPIR(Measurement(operator, y, noise), deviation=DEVIATION)
                scores.append(psnr(restored(prior, block, AnnealedRestoration(), y)[0].clamp(0, 1), clean).item())
            rows.append(scores)
            print(
                f"{name:10} {kind:9} {size:4g}  damaged, told, found: {' '.join(f'{db:.2f}' for db in scores)}",
                flush=True,
            )
    damaged, told, found = np.array(rows).T
    return {
        "repaired: told, mean gain in dB": float((told - damaged).mean()),
        "repaired: found, mean gain in dB": float((found - damaged).mean()),
        "repaired: within 1 dB of told": float((found > told - 1).mean()),
        "repaired: above the blurred picture": float((found > damaged).mean()),
    }


def training(count: int) -> list[Tensor]:
    """As the held-out ones: squares of 256 pixels, one in two cut out, the other made smaller."""
    large = [picture for picture in load() if min(picture.shape[:2]) >= SIZE]
    photos = []
    for turn, index in enumerate(np.linspace(0, len(large) - 1, min(count, len(large))).round().astype(int)):
        picture = Image.fromarray(large[index])
        left, top = ((side - SIZE) // 2 for side in picture.size)
        whole = ImageOps.fit(picture, (SIZE, SIZE), Image.Resampling.LANCZOS)
        square = whole if turn % 2 else picture.crop((left, top, left + SIZE, top + SIZE))
        photos.append(torch.from_numpy(np.array(square, dtype=np.float32) / 255).movedim(-1, 0)[None])
    return photos


def learn(count: int) -> dict[str, float]:
    terms = harmonics(128)
    powers = torch.stack([Spectrum(photo[0], 128).log_power.double() for photo in training(10**6)])
    weights = torch.linalg.lstsq(terms, powers.mT).solution
    rows = iter(zip(weights.mean(1).tolist(), weights.std(1).tolist(), strict=True))
    for group in SHARP:
        print(*(f"({mean:.2f}, {deviation:.2f})" for mean, deviation in (next(rows) for _ in group)))
    softness(count)
    softness(count)
    found = list(cases(training(count), True))
    right = np.array([kind == each.kind for kind, *_, each in found])
    says = np.array([each.confidence for *_, each in found])
    for low, high in ((0.0, 0.6), (0.6, 0.8), (0.8, 0.95), (0.95, 1.01)):
        own = (low <= says) & (says < high)
        print(f"confidence from {low:g}: {own.sum()}, says {says[own].mean():.2f}, right {right[own].mean():.2f}")
    return {"kind": right.mean(), "says": says.mean()}


def softness(count: int) -> None:
    """How wide a Gaussian photographs look, quantiles: undamaged ones, and those that one of 1 pixel blurred."""
    barely = []  # some people have them nearly as a camera left them
    for picture in [next(reduced(photo.data, (4 / 3,)), None) for photo in sources()]:
        if picture is not None and min(picture.shape[:2]) >= SIZE:
            top, left = ((side - SIZE) // 2 for side in picture.shape[:2])
            square = picture[top : top + SIZE, left : left + SIZE]
            barely.append(torch.from_numpy(square.astype(np.float32) / 255).movedim(-1, 0)[None])
    widths = np.geomspace(0.3, 1.6, 24)
    blurs = [Identity(), *(convolution(gaussian(width)) for width in widths.tolist())]
    for name, photos in (("as --learn", training(count)), ("reduced by 1.2", barely[:: max(1, len(barely) // count)])):
        for kind, size in BLURS[:2]:
            for noise in NOISES:
                seen = [recorded(photo, kind, (size,), noise, turn) for turn, photo in enumerate(photos)]
                best = [np.argmax([log_likelihood(each, blur) for blur in blurs]) for each in seen]
                spread = np.quantile(np.array([0.0, *widths])[best], [0.05, 0.1, 0.5, 0.9, 0.95])
                print(f"{name}, {kind} {size:g}, noise {noise:g}: 5, 10, 50, 90, 95 %: {spread.round(2)}", flush=True)


PARTS: dict[str, Callable[[bool], dict[str, float]]] = {"blurs": blurs, "sizes": sizes, "repaired": repaired}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one level of noise for each photo and blur")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this (may be repeated)")
    parser.add_argument("--learn", type=int, metavar="N", help="from N training photographs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for part in [lambda _: learn(options.learn)] if options.learn else [PARTS[name] for name in options.part or PARTS]:
        results |= part(options.quick)
    for target, reached in results.items():
        print(f"{target:45} {reached:.3f}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
