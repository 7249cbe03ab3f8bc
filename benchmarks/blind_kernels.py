"""Free kernels: how well the camera's path and the picture are found together, beside a classical blind method.

    python3 dev.py bench blind_kernels [--quick]

Held-out photographs, 128 x 128, blurred by *Camera Shake* paths of 15 to 27 pixels, noise 0.01, 8 bits. Ours is the
Blind Sampler's restoration (DiffPIR, 16 model calls from sigma 1 to 0.03, a kernel two pixels wider than the true one
on each side). Its settings were chosen on training photographs. The classical methods are those of scikit-image:
Richardson-Lucy made blind (Fish et al. 1995, https://doi.org/10.1364/JOSAA.12.000058: `richardson_lucy` for the
picture, the same step for the kernel, in turn), which finds a kernel, and `unsupervised_wiener` with our kernel, as it
needs one. "told" is what the same restoration does with the true kernel.

Correlation: the largest normalised correlation of two kernels over shifts. Gain: PSNR over that of the blurred photo,
each at its best shift of up to four pixels, since a blind method cannot know it, 16 pixels of border left out. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..algebra.streams import Streams
from ..diffusion.run import Run
from ..guidance.diffpir import PHOTOS, DiffPIR
from ..measurement.measurement import Measurement
from ..measurement.noise import GaussianNoise
from ..operators.convolution import convolution
from ..operators.families import FreeKernel
from ..operators.identity import Identity
from ..operators.kernels import camera_shake
from ..photos import PHOTOS as NAMES
from ..photos import load_photo
from ..samplers.annealed import AnnealedRestoration
from ..samplers.blind import Blind
from ..samplers.unknown import Unknown
from .prior import level, photo_prior

SIZE, STEPS, NOISE, BORDER = 128, 16, 0.01, 16


def correlation(a: Tensor, b: Tensor) -> float:
    """The largest normalised correlation of two kernels `1 1 h w` over shifts."""
    side = 2 * max(a.shape[-1], b.shape[-1]) + 1
    spectra = [torch.fft.fft2(k[0, 0].double(), s=(side, side)) for k in (a, b)]
    return (torch.fft.ifft2(spectra[0] * spectra[1].conj()).real.max() / (a.norm() * b.norm())).item()


def best(x: Tensor, clean: Tensor, reach: int = 4) -> float:
    """PSNR at the best shift."""
    m, (h, w) = BORDER, clean.shape[-2:]
    middle = clean[..., m : h - m, m : w - m]
    shifts = [(dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
    parts = [x[..., m + dy : h - m + dy, m + dx : w - m + dx] for dy, dx in shifts]
    return -10 * math.log10(min((part.clamp(0, 1) - middle).square().mean().item() for part in parts))


def restored(prior, block: DiffPIR, sampler, y: Tensor) -> tuple[Tensor, dict]:
    sigmas = torch.logspace(0, math.log10(0.03), STEPS).tolist()
    run = Run(prior, [*map(level, sigmas), level(0.0)], [block], Streams(1, "sampling"))
    return sampler(run, y), run.record


def blind_richardson_lucy(y: Tensor, side: int, rounds: int = 10, inner: int = 5) -> tuple[Tensor, Tensor]:
    """Picture and kernel by Richardson-Lucy in turn, on the luminance for the kernel."""
    from skimage.restoration import richardson_lucy

    seen = y.mean(1)[0].clamp(1e-3, 1).numpy()
    h, w = seen.shape
    picture, kernel = seen.copy(), np.full((side, side), 1 / side**2)
    top, left = (h - side) // 2, (w - side) // 2
    for _ in range(rounds):
        # the kernel as a picture that the picture blurs
        laid = np.full((h, w), 1e-9)
        laid[top : top + side, left : left + side] = kernel
        ratio = seen / np.maximum(_convolved(picture, laid), 1e-6)
        update = _convolved(picture, ratio, flipped=True) / picture.sum()
        kernel = kernel * update[top : top + side, left : left + side]
        kernel = kernel / kernel.sum()
        picture = richardson_lucy(seen, kernel, num_iter=inner)
    colours = [richardson_lucy(c.clamp(1e-3, 1).numpy(), kernel, num_iter=20) for c in y[0]]
    return torch.from_numpy(np.stack(colours)).float()[None], torch.from_numpy(kernel).float()[None, None]


def _convolved(picture: np.ndarray, laid: np.ndarray, flipped: bool = False) -> np.ndarray:
    """picture * laid with the origin of `laid` in the middle, periodic; flipped: the correlation, laid out likewise."""
    a, b = np.fft.rfft2(picture), np.fft.rfft2(laid)
    if flipped:
        return np.fft.fftshift(np.fft.irfft2(a.conj() * b, s=laid.shape))
    return np.fft.irfft2(a * np.fft.rfft2(np.fft.ifftshift(laid)), s=laid.shape)


def wiener(y: Tensor, kernel: Tensor) -> Tensor:
    from skimage.restoration import unsupervised_wiener

    r = kernel.shape[-1]
    wider = F.pad(y, (r, r, r, r), mode="reflect")[0].double().numpy()
    parts = [unsupervised_wiener(c, kernel[0, 0].double().numpy(), rng=0)[0][r:-r, r:-r] for c in wider]
    return torch.from_numpy(np.stack(parts)).float()[None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three photographs, three paths")
    options = parser.parse_args()
    prior, rows = photo_prior(), []
    paths = [(7.0, 1), (9.0, 2), (12.0, 3)] if options.quick else [(7.0 + 0.8 * k, k + 1) for k in range(8)]
    for index, name in enumerate(NAMES[:3] if options.quick else NAMES):
        clean = load_photo(name, SIZE).movedim(-1, 1)
        for size, seed in [paths[index % len(paths)]] if options.quick else paths:
            kernel = camera_shake(size, seed)
            y = Measurement.simulate(convolution(kernel), clean, GaussianNoise(NOISE), seed).y
            y = (y.clamp(0, 1) * 255).round() / 255
            side, noise = kernel.shape[-1] + 4, GaussianNoise(NOISE)
            block = DiffPIR(Measurement(Identity(), y, noise), deviation=PHOTOS)
            sampler = Blind(Unknown(FreeKernel(side), rounds=2), AnnealedRestoration(), 0.0)
            ours, record = restored(prior, block, sampler, y)
            told = DiffPIR(Measurement(convolution(kernel), y, noise), deviation=PHOTOS)
            lucy, found = blind_richardson_lucy(y, side)
            blurred = best(y, clean)
            rows.append(
                {
                    "photo": name, "path": [size, seed], "side": kernel.shape[-1], "blurred": blurred,
                    "correlation": correlation(record["kernel"], kernel), "gain": best(ours, clean) - blurred,
                    "told": best(restored(prior, told, AnnealedRestoration(), y)[0], clean) - blurred,
                    "wiener, our kernel": best(wiener(y, record["kernel"]), clean) - blurred,
                    "richardson-lucy correlation": correlation(found, kernel),
                    "richardson-lucy gain": best(lucy, clean) - blurred,
                }
            )  # fmt: skip
            print({key: round(v, 3) if isinstance(v, float) else v for key, v in rows[-1].items()}, flush=True)
    numbers = [key for key, value in rows[0].items() if isinstance(value, float)]
    means = {key: sum(row[key] for row in rows) / len(rows) for key in numbers}
    print(json.dumps({"means": means, "rows": rows}))


if __name__ == "__main__":
    main()
