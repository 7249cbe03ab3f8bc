"""Noise in blotches: found in the photo and taken away, beside non-local means.

    python3 dev.py bench blotches [--quick] [--told] [--size 128]

Ten held-out photographs of 256 x 256, or the middle of that, white noise blurred by a Gaussian of 1 pixel and scaled to
a deviation of 0.08, 8 bits. Ours is what *Observe* with *estimated* noise and *Solve* do: where blotches are found, a
restoration (DiffPIR, 12 model calls), else the posterior mean for even grain. "told" knows the noise. "as grain" is the
posterior mean at the level that is estimated for even grain, one model call. Non-local means (Buades et al. 2005,
scikit-image) has its strength and patches tuned on the truth of each photo. Nothing of ours was tuned on these photos.
PSNR in dB; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json

import torch
from torch import Tensor

from ..algebra.streams import Streams
from ..diffusion.run import Run
from ..guidance.auto import automatic
from ..measurement.coloured_noise import ColouredNoise, blotches
from ..measurement.measurement import Measurement
from ..measurement.noise_spectrum import blotches_in
from ..measurement.plain_noise import estimated_level
from ..operators.identity import Identity
from ..photos import PHOTOS
from ..samplers.annealed import AnnealedRestoration
from .blind import photo
from .prior import Prior, level, photo_prior, psnr

SIGMA, LENGTH, STEPS = 0.08, 1.0, 12


def restored(prior: Prior, y: Tensor, noise: ColouredNoise) -> tuple[Tensor, float]:
    """The restoration that *Solve* makes, with its ladder, and its fit."""
    measurement = Measurement.observe(Identity(), y, noise)
    start, end = 2 * noise.spectrum.max().sqrt(), 0.4 * noise.sigma.mean()
    sigmas = torch.logspace(start.log10(), end.log10(), STEPS).tolist()
    blocks = automatic(measurement, STEPS, restore=True).blocks
    run = Run(prior, [*map(level, sigmas), level(0.0)], blocks, Streams(1, "sampling"))
    x = AnnealedRestoration()(run, y.clone()).clamp(0, 1)
    return x, measurement.fit(x).item()


def non_local_means(y: Tensor, clean: Tensor) -> float:
    """The best PSNR over strengths and patches."""
    from skimage.restoration import denoise_nl_means

    picture = y[0].movedim(0, -1).numpy()
    best = 0.0
    for h in (0.04, 0.06, 0.08, 0.1, 0.14):
        for sigma in (0.0, SIGMA):
            for size, distance in ((3, 7), (5, 9), (7, 11)):
                x = denoise_nl_means(picture, size, distance, h, sigma=sigma, channel_axis=-1)
                best = max(best, psnr(torch.from_numpy(x).movedim(-1, 0)[None].float(), clean))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two photos, the middle 128 pixels")
    parser.add_argument("--told", action="store_true", help="also with the noise as it is, another 12 model calls")
    parser.add_argument("--size", type=int, default=256, help="side of the middle that is taken, pixels")
    options = parser.parse_args()
    size = 128 if options.quick else options.size
    edge = (256 - size) // 2
    torch.set_num_threads(1)
    prior, rows = photo_prior(), {}
    for turn, name in enumerate(PHOTOS[:2] if options.quick else PHOTOS):
        clean = photo(name)[..., edge : edge + size, edge : edge + size]
        truth = blotches(SIGMA, LENGTH, tuple(clean.shape[-2:]))
        y = (255 * truth.sample(clean, turn).clamp(0, 1)).round() / 255
        found = blotches_in(y)
        grain = prior(y, level(2 * max(estimated_level(y), 1e-3))).clamp(0, 1)
        row = {"noisy": psnr(y, clean), "NLM": non_local_means(y, clean), "as grain": psnr(grain, clean)}
        if found is None:
            row["ours"] = row["as grain"]
        else:
            x, fit = restored(prior, y, found)
            row |= {"ours": psnr(x, clean), "found": found.sigma.mean().item(), "fit": fit}
        if options.told:
            row["told"] = psnr(restored(prior, y, truth)[0], clean)
        rows[name] = row
        print(f"{name:12}", "  ".join(f"{key} {value:.2f}" for key, value in row.items()), flush=True)
    mean = {key: sum(row[key] for row in rows.values()) / len(rows) for key in row if key not in ("found", "fit")}
    print("mean        ", "  ".join(f"{key} {value:.2f}" for key, value in mean.items()))
    print(json.dumps({"rows": rows, "mean": mean}))


if __name__ == "__main__":
    main()
