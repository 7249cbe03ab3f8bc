"""Quality against model calls: what each method buys, and what Auto chooses.

Samples of problems whose posterior is known, by the sliced Wasserstein-1 distance to exact samples over the posterior's
standard deviation (exact samples among themselves: the floor), and of half-hidden digits by their squared error in the
hidden half (the mean over samples; a posterior sample has twice the least possible). A forward and a backward pass
count one call each.

    texture    a stationary Gaussian of 12 x 12 pixels, correlated over 4; half hidden, 60 % of the pixels lost, blurred
    mixture    of 3 and of 8 smooth pictures of 8 x 8 and small deviations around them, half hidden
    digits     the embedded digits prior, ten held-out digits, the lower half hidden

    python3 dev.py bench frontier [--quick] [--task NAME]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ..algebra.streams import Streams
from ..diffusion.level import Level
from ..diffusion.run import Run
from ..guidance.auto import automatic
from ..guidance.base import Guidance
from ..guidance.ddnm import DDNM
from ..guidance.diffpir import PHOTOS, DiffPIR
from ..guidance.dps import DPS
from ..guidance.mmps import MMPS
from ..guidance.pigdm import PiGDM, PiGDMPublished
from ..measurement.measurement import Measurement
from ..measurement.noise import GaussianNoise
from ..operators.base import Operator
from ..operators.convolution import convolution
from ..operators.inpainting import Inpainting, RandomPixels
from ..operators.kernels import gaussian
from ..priors.gaussian import Gaussian
from ..priors.gray import GrayAsColour
from ..priors.mixture import GaussianMixture
from ..samplers.base import Sampler
from ..samplers.daps import DAPS
from ..samplers.ddim import GuidedDDIM
from ..samplers.split_gibbs import SplitGibbs
from .counted import Counted

ROOT = Path(__file__).resolve().parent.parent
#: deviation of the pictures of the closed forms, the unit of [0, 1]
DEVIATION, SIGMA_Y = 0.25, 0.01
STEPS = (10, 20, 30, 50)


@dataclass(frozen=True)
class Task:
    """A prior, what was measured of one draw, and how good samples are.

    Args:
        denoiser: `(x_t, t) -> x0_hat`, states of pictures in [0, 1] seen from [-1, 1].
        measurement: of one picture, or of one for each sample.
        count: how many samples.
        quality: of samples `B C H W`; smaller is better.
    """

    name: str
    denoiser: Callable[[Tensor, Level], Tensor]
    measurement: Measurement
    count: int
    quality: Callable[[Tensor], float]


def distance(prior, measurement: Measurement, samples: int) -> Callable[[Tensor], float]:
    """Sliced Wasserstein over the posterior's scale."""
    posterior = prior.posterior(measurement)
    exact = posterior.sample(samples, 77).flatten(1)
    scale = exact.var(0).sum().sqrt() / exact.shape[1] ** 0.5

    def of(x: Tensor) -> float:
        directions = torch.randn(exact.shape[1], 100, generator=torch.Generator().manual_seed(0), dtype=exact.dtype)
        directions = directions / directions.norm(dim=0)
        a, b = ((each @ directions).sort(0).values for each in (x.flatten(1).to(exact), exact))
        return ((a - b).abs().mean() / scale).item()

    return of


def closed(name: str, prior, operator: Operator, samples: int) -> Task:
    measurement = Measurement.simulate(operator, prior.sample(1, 5), GaussianNoise(SIGMA_Y), 6)
    return Task(name, prior.denoiser, measurement, samples, distance(prior, measurement, samples))


def half(side: int) -> Inpainting:
    mask = torch.zeros(1, 1, side, side)
    mask[..., side // 2 :] = 1
    return Inpainting(mask).to("cpu", torch.float64)


def texture(side: int, correlation: float) -> Gaussian:
    line = torch.arange(side, dtype=torch.float64)
    place = torch.cartesian_prod(line, line)
    covariance = DEVIATION**2 * torch.exp(-torch.cdist(place, place) / correlation)
    return Gaussian.from_covariance(torch.full((1, side, side), 0.5, dtype=torch.float64), covariance)


def mixture(count: int, side: int = 8) -> GaussianMixture:
    centres = texture(side, 4.0).sample(count, 9)
    small = 0.15**2 * texture(side, 2.0).covariance() / DEVIATION**2
    return GaussianMixture([Gaussian.from_covariance(centre, small) for centre in centres], torch.ones(count) / count)


def digits() -> Task:
    with Image.open(ROOT / "photos" / "digits.png") as image:
        grid = torch.from_numpy(np.array(image.convert("L"), dtype=np.float32)) / 255
    clean = grid.reshape(4, 32, 10, 32).transpose(1, 2).reshape(40, 1, 32, 32)[:10].expand(-1, 3, -1, -1)
    file = load_file(ROOT / "priors" / "digits_prior.safetensors")
    weights = {f"gray.{key}": value.float() for key, value in file.items()}
    network = GrayAsColour(**GrayAsColour.config_from_state_dict(weights))
    network.load_state_dict(weights)
    network.requires_grad_(False)

    def denoiser(u: Tensor, t: Level) -> Tensor:
        return (network(2 * u - 1, u.new_tensor([2 * t.sigma]).log() / 4) + 1) / 2

    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 16:, :] = 1
    measurement = Measurement.simulate(Inpainting(mask), clean, GaussianNoise(SIGMA_Y), 0)
    hidden = mask.bool().expand_as(clean)
    return Task("digits", denoiser, measurement, 10, lambda x: (x - clean)[hidden].square().mean().item())


def tasks(samples: int) -> dict[str, Callable[[], Task]]:
    smooth = texture(12, 4.0)
    blur = convolution(gaussian(1.0).double()[..., 1:-1, 1:-1], "circular")
    return {
        "texture, half hidden": lambda: closed("texture, half hidden", smooth, half(12), samples),
        "texture, pixels lost": lambda: closed("texture, pixels lost", smooth, RandomPixels(0.6, 3), samples),
        "texture, blurred": lambda: closed("texture, blurred", smooth, blur, samples),
        "mixture of 3": lambda: closed("mixture of 3", mixture(3), half(8), samples),
        "mixture of 8": lambda: closed("mixture of 8", mixture(8), half(8), samples),
        "digits": digits,
    }


@dataclass(frozen=True)
class Way:
    """A method with its settings.

    Args:
        block: the guidance of a measurement, for so many steps.
        sampler: that it runs in.
    """

    method: str
    settings: str
    block: Callable[[Measurement, int], Guidance]
    sampler: Sampler = GuidedDDIM(1.0)
    steps: tuple[int, ...] = STEPS


def carried(measurement: Measurement, steps: int) -> Guidance:
    return Guidance(measurement)


TWICE, FOUR_TIMES = (GuidedDDIM(1.0, repeats=times, jump=1) for times in (2, 4))
WAYS = [
    Way("DDNM", "smooth", lambda m, n: DDNM(m, smooth=True)),
    Way("DDNM", "smooth, travel 1 x 2", lambda m, n: DDNM(m, smooth=True), TWICE),
    Way("DDNM", "smooth, travel 1 x 4", lambda m, n: DDNM(m, smooth=True), FOUR_TIMES),
    Way("DiffPIR", "smooth", lambda m, n: DiffPIR(m, 1.0, PHOTOS, smooth=True)),
    Way("DiffPIR", "smooth, travel 1 x 2", lambda m, n: DiffPIR(m, 1.0, PHOTOS, smooth=True), TWICE),
    Way("Pi-GDM", "published", lambda m, n: PiGDMPublished(m, PHOTOS)),
    Way("Pi-GDM", "denoiser", lambda m, n: PiGDM(m, PHOTOS)),
    Way("DPS", "1000 / steps", lambda m, n: DPS(m, 1000 / n * (m.y[0].numel() / (3 * 256**2)) ** 0.5)),
    Way("MMPS", "1 iteration", lambda m, n: MMPS(m, 1)),
    Way("MMPS", "3 iterations", lambda m, n: MMPS(m, 3), steps=(10, 20, 30)),
    Way("MMPS", "8 iterations", lambda m, n: MMPS(m, 8), steps=(6, 10, 20)),
    Way("PnP-DM", "inner 5, hold 5", carried, SplitGibbs(5, 5), (10, 20)),
    Way("DAPS", "as set", carried, DAPS(), (10, 30)),
]  # fmt: skip


def levels(steps: int) -> list[Level]:
    ramp = torch.linspace(20.0 ** (1 / 7), 0.02 ** (1 / 7), steps, dtype=torch.float64) ** 7
    return [*(Level(1.0, sigma / 2, 2.0) for sigma in ramp.tolist()), Level(1.0, 0.0, 2.0)]


def point(task: Task, method: str, settings: str, block: Guidance, sampler: Sampler, steps: int, auto: bool) -> dict:
    prior, draw = Counted(task.denoiser), Streams(1, "sampling", len(task.measurement.y))
    run = Run(prior, levels(steps), [block], draw)
    like = torch.zeros(task.count, *task.measurement.image_shape, dtype=task.measurement.y.dtype)
    with torch.no_grad():
        x = sampler(run, 0.5 + run.levels[0].sigma * draw.normal(like))
    quality = task.quality(x.nan_to_num(1e6))
    return {
        "task": task.name, "method": method, "settings": f"{settings}, {steps} steps", "calls": prior.calls,
        "quality": quality, "auto": auto,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer samples, two lengths")
    parser.add_argument("--task", help="one task only")
    options = parser.parse_args()
    points = []
    for name, make in tasks(200 if options.quick else 1000).items():
        if options.task not in (None, name):
            continue
        task = make()
        runs = [(way, steps) for way in WAYS for steps in (way.steps[:2] if options.quick else way.steps)]
        own = [
            point(task, way.method, way.settings, way.block(task.measurement, steps), way.sampler, steps, False)
            for way, steps in runs
        ]
        for steps in STEPS[:2] if options.quick else STEPS:
            block, _ = automatic(task.measurement, steps)
            own.append(point(task, block.label, "auto", block, GuidedDDIM(1.0), steps, True))
        print(f"\n{name}", flush=True)
        for row in sorted(own, key=lambda row: row["calls"]):
            best = min(other["quality"] for other in own if other["calls"] <= row["calls"])
            mark = "*" if row["quality"] <= best else "A" if row["auto"] else " "
            words = f"{row['calls']:5d} calls  {row['quality']:8.4f}  {row['method']:8s} {row['settings']}"
            print(f"{mark} {words}", flush=True)
        points += own
    finite = [row | {"quality": row["quality"] if math.isfinite(row["quality"]) else None} for row in points]
    print(json.dumps({"points": finite}))


if __name__ == "__main__":
    main()
