"""Free kernels: how well the camera's path and the picture are found, beside a classical blind method.

    python3 dev.py bench blind_kernels [--quick] [--told] [--together]

Held-out photographs, 256 x 256, blurred by *Camera Shake* paths of 15 to 27 pixels, noise 0.01 and 0, 8 bits. Ours is
*Estimate Camera Shake* with a width of 31 for all, then a restoration with that kernel (DiffPIR, 16 model calls from
sigma 1 to 0.03, sigma_y at least `DOUBT`, as no found kernel is quite right). Its settings were chosen on training
photographs. The classical methods are those of scikit-image: Richardson-Lucy made blind (Fish et al. 1995,
https://doi.org/10.1364/JOSAA.12.000058: `richardson_lucy` for the picture, the same step for the kernel, in turn),
which finds a kernel and is told its width but for four pixels, and `unsupervised_wiener` with our kernel, as it needs
one. `--told` adds what the same restoration does with the true kernel, `--together` the Blind Sampler, which finds
kernel and picture together.

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
from ..measurement.kernel_estimate import estimate_kernel
from ..measurement.measurement import Measurement
from ..measurement.noise import ROUNDING, GaussianNoise
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

SIZE, STEPS, NOISES, BORDER = 256, 16, (0.01, 0.0), 16
#: size and seed of *Camera Shake*: kernels of 15, 15, 19, 19, 21, 23, 25 and 27 pixels
PATHS = ((7.0, 1), (7.8, 2), (8.6, 3), (9.4, 4), (10.2, 5), (11.0, 6), (13.0, 7), (16.5, 8))
#: what ours is told of the kernel's width, pixels
WIDTH = 31
#: least sigma_y with a kernel that was found; *Solve* adds more, `kernel_estimate.DOUBT`
DOUBT = 0.01


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


def case(photo: str, path: tuple[float, int], noise: float, told: bool, together: bool) -> dict:
    """One row of the table."""
    prior, clean, kernel = photo_prior(), load_photo(photo, SIZE).movedim(-1, 1), camera_shake(*path)
    y = Measurement.simulate(convolution(kernel), clean, GaussianNoise(noise), path[1]).y
    y = (y.clamp(0, 1) * 255).round() / 255
    side, blurred = kernel.shape[-1] + 4, best(y, clean)

    def gain(kernel: Tensor, sigma: float) -> float:
        block = DiffPIR(Measurement(convolution(kernel), y, GaussianNoise(sigma)), deviation=PHOTOS)
        return best(restored(prior, block, AnnealedRestoration(), y)[0], clean) - blurred

    found, (lucy, by_lucy) = estimate_kernel(y, WIDTH).kernel, blind_richardson_lucy(y, side)
    row = {
        "photo": photo, "path": path, "side": kernel.shape[-1], "noise": noise, "blurred": blurred,
        "correlation": correlation(found, kernel), "gain": gain(found, max(noise, DOUBT)),
        "wiener, our kernel": best(wiener(y, found), clean) - blurred,
        "richardson-lucy correlation": correlation(by_lucy, kernel),
        "richardson-lucy gain": best(lucy, clean) - blurred,
    }  # fmt: skip
    if told:
        row["told"] = gain(kernel, max(noise, DOUBT))
    if together:
        block = DiffPIR(Measurement(Identity(), y, GaussianNoise(max(noise, ROUNDING))), deviation=PHOTOS)
        sampler = Blind(Unknown(FreeKernel(side), rounds=2), AnnealedRestoration(), 0.0)
        picture, record = restored(prior, block, sampler, y)
        row |= {
            "together correlation": correlation(record["kernel"], kernel),
            "together": best(picture, clean) - blurred,
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="each photograph with one of the eight paths")
    parser.add_argument("--told", action="store_true", help="the true kernel as well")
    parser.add_argument("--together", action="store_true", help="the Blind Sampler as well")
    options = parser.parse_args()
    rows, means = [], {}
    for noise in NOISES:
        for index, name in enumerate(NAMES):
            for path in [PATHS[index % 8]] if options.quick else PATHS:
                rows.append(case(name, path, noise, options.told, options.together))
                print({key: round(v, 3) if isinstance(v, float) else v for key, v in rows[-1].items()}, flush=True)
        own = [row for row in rows if row["noise"] == noise]
        keys = [key for key, value in own[0].items() if isinstance(value, float)]
        means[noise] = {key: sum(row[key] for row in own) / len(own) for key in keys}
        print(f"noise {noise:g}, means: {json.dumps(means[noise])}", flush=True)
    print(json.dumps({"means": means, "rows": rows}))


if __name__ == "__main__":
    main()
