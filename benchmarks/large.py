"""Pictures larger than a model takes: a scratched photo of 12 megapixels, and a texture in windows.

    python3 dev.py bench large [--quick]

photo     a photograph brought to 3000 x 4000 with three scratches, repaired in the host by the embedded prior, *Tiled
          Model* and *Solve*: seconds of processor time, the peak of the process while it solves, how often progress was
          shown, and PSNR inside the scratches beside the rough inverse's
texture   a Gaussian field of 1024 x 1024, correlated over 16 pixels, behind a blur and noise of 0.05. Its posterior is
          known, N(m, C), and stationary: the errors x - m of a sample have a power spectrum, and the Wasserstein
          distance between that (in rings of frequencies) and C's, over the deviation of the posterior, says how far
          samples are from it. MMPS with 20 ancestral steps, the prior once as a whole and once in windows of 256 with
          the field's own law at that size

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..algebra.streams import Streams
from ..diffusion.level import Level
from ..diffusion.run import Run
from ..guidance.mmps import MMPS
from ..measurement.measurement import Measurement
from ..measurement.noise import GaussianNoise
from ..measurement.smooth import smooth_inverse
from ..operators.convolution import CircularConvolution
from ..operators.kernels import gaussian
from ..photos import load_photo
from ..priors.gaussian import StationaryGaussian
from ..samplers.ddim import GuidedDDIM
from ..tests.inside_host import Host
from ..tools import environment
from .latent import peak_memory
from .prior import level, psnr


def scratched(height: int, width: int) -> Tensor:
    """A mask `1 H W` of three scratches, 7 pixels wide, each over a fifth of the height."""
    mask = torch.zeros(1, height, width)
    for left, top, slope in ((0.2, 0.1, 0.3), (0.5, 0.45, -0.2), (0.75, 0.7, 0.5)):
        rows = torch.arange(int(top * height), int((top + 0.2) * height))
        columns = (left * width + slope * (rows - rows[0])).long()
        for offset in range(7):
            mask[0, rows, columns + offset] = 1
    return mask


def photo(host: Host, height: int, width: int, steps: int) -> dict[str, float]:
    import comfy.utils

    small = load_photo("stream", 1024).movedim(-1, 1)
    clean = F.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)
    mask, shown = scratched(height, width), []
    operator = host.call("PosteriorInpainting", mask=mask)
    measurement = host.call("PosteriorSimulate", image=clean.movedim(1, -1), operator=operator, sigma_y=0.0, seed=0)
    model = host.call("PosteriorTiledModel", model=host.call("PosteriorPhotoPrior"), mask=mask)
    comfy.utils.set_progress_bar_global_hook(lambda *how, **more: shown.append(how))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = time.process_time()
    image = host.call("PosteriorSolve", model=model, measurement=measurement, estimate="restoration", steps=steps)[0]
    seconds, gib = time.process_time() - start, peak_memory()
    comfy.utils.set_progress_bar_global_hook(None)
    lost = (mask > 0).expand(3, -1, -1)
    found = {"answer": image.movedim(-1, 1), "rough": smooth_inverse(measurement.operator, measurement.y)}
    decibels = {f"psnr_{name}": psnr(x[0][lost][None], clean[0][lost][None]) for name, x in found.items()}
    return {"megapixels": height * width / 1e6, "seconds": seconds, "gib": gib, "shown": len(shown), **decibels}


def texture(side: int) -> StationaryGaussian:
    """The field on a torus of this side, `1 H W`, about 0.5 with a deviation of 0.2."""
    f = torch.fft.fftfreq(side)
    spectrum = (1 + (16 * (f[:, None] ** 2 + f**2).sqrt() * 2 * torch.pi) ** 2) ** -1.5
    spectrum = spectrum * 0.04 / spectrum.mean()
    return StationaryGaussian(torch.full((1, side, side), 0.5), spectrum[..., None, None].to(torch.complex64))


def rings(power: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of a power spectrum `H W` in each ring of frequencies, and how many frequencies that is."""
    f = torch.fft.fftfreq(power.shape[-1])
    ring = ((f[:, None] ** 2 + f**2).sqrt() * 64).long().flatten()
    count = torch.bincount(ring)
    return torch.bincount(ring, power.flatten()) / count, count


def windowed(prior: StationaryGaussian, side: int):
    """A denoiser that looks in windows, shifted from call to call."""
    from ..host.spaces.windows import Windows, blended

    windows, seen = Windows(side, side // 4), []

    def denoiser(x: Tensor, t: Level) -> Tensor:
        if t not in seen:
            seen.append(t)
        places = windows.over(*x.shape[-2:], len(seen))
        return blended(windows, places, [prior.denoiser(x[(..., *place)], t) for place in places], x)

    return denoiser


def field(side: int, window: int, steps: int) -> dict[str, float]:
    """Distances from the posterior of the whole, and the two samples' from each other with the same noise."""
    sigma, prior, operator = 0.05, texture(side), CircularConvolution(gaussian(2.0))
    measurement = Measurement.simulate(operator, prior.sample(1, 1), GaussianNoise(sigma), 2)
    delta = torch.zeros(1, 1, side, side)
    delta[..., 0, 0] = 1
    h, s = torch.fft.fft2(operator.forward(delta)), prior.values[..., 0]
    gain = s * h.conj() / (s * h.abs() ** 2 + sigma**2)
    mean = prior.mean + torch.fft.ifft2(gain * torch.fft.fft2(measurement.y - operator.forward(prior.mean[None]))).real
    exact = s * sigma**2 / (s * h[0, 0].abs() ** 2 + sigma**2)

    def distance(x: Tensor) -> float:
        (own, count), (law, _) = rings(torch.fft.fft2(x - mean, norm="ortho").abs()[0, 0] ** 2), rings(exact)
        return ((count * (own.sqrt() - law.sqrt()) ** 2).sum() / exact.sum()).sqrt().item()

    def sampled(denoiser) -> Tensor:
        ramp = torch.linspace(20.0 ** (1 / 7), 0.02 ** (1 / 7), steps) ** 7
        levels = [*map(level, ramp.tolist()), level(0.0)]
        run = Run(denoiser, levels, [MMPS(measurement)], Streams(3, "sampling"))
        return GuidedDDIM(1.0)(run, 0.5 + levels[0].sigma * run.draw.normal(delta))

    whole, parts = sampled(prior.denoiser), sampled(windowed(texture(window), window))
    drawn = mean + torch.fft.ifft2(exact.sqrt() * torch.fft.fft2(Streams(4, "exact").normal(delta))).real
    deviation = exact.mean().sqrt()
    found = {"exact": drawn, "whole": whole, "windows": parts}
    apart = (whole - parts).square().mean().sqrt() / deviation
    return {name: distance(x) for name, x in found.items()} | {"apart": apart.item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a picture of one megapixel, a texture of 256")
    parser.add_argument("--only", choices=["photo", "texture"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    if args.only != "photo":
        found["texture"] = field(*((256, 64, 10) if args.quick else (1024, 256, 20)))
        print(found["texture"], flush=True)
    if args.only != "texture":
        host = Host(environment.get(os.environ.get("COMFYUI_PATH")))
        found["photo"] = photo(host, *((1000, 1200, 2) if args.quick else (3000, 4000, 6)))
        print(found["photo"], flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
