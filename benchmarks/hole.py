"""A hole in a photograph: sixteen samples, and whether they are as uncertain as they should be.

    python3 dev.py bench hole [--quick] [--only NAME] [--memory]

Crops of 64 x 64 of held-out photographs, a hole of 24 x 24 in the middle, noise 0.01, the embedded prior, 30 levels
from pure noise. Of the samples in the hole, mean over the photographs:

    energy     E norm(X - x) - E norm(X - X') / 2 over the root of how many numbers, percent of white: a proper score,
               smaller is better (Gneiting and Raftery 2007, https://doi.org/10.1198/016214506000001437)
    mean, one  PSNR of the samples' mean and of single samples, dB
    spread     deviation of the samples, with the mean's own error, over the RMS error of their mean: 1 is honest
    inner      how often a true number is neither below the two lowest nor above the two highest; 13 / 17 if exact

`--memory`: the peak of what one step of a particle filter holds, for more and more particles in batches of 8.

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
from torch import Tensor

from ..algebra.streams import Streams
from ..diffusion.run import Run
from ..guidance.base import Guidance
from ..guidance.ddnm import DDNM
from ..guidance.diffpir import PHOTOS, DiffPIR
from ..guidance.pigdm import PiGDM
from ..measurement.measurement import Measurement
from ..measurement.noise import GaussianNoise
from ..operators.inpainting import Inpainting
from ..priors.train import held_out_crops
from ..samplers.base import Sampler
from ..samplers.daps import DAPS
from ..samplers.ddsmc import DDSMC
from ..samplers.mcgdiff import MCGDiff
from ..samplers.split_gibbs import SplitGibbs
from ..samplers.tds import TDS
from .guidance import peak_memory
from .prior import ANCESTRAL, Prior, decibels, level, photo_prior, psnr, sample

COUNT, STEPS, SIDE, HOLE = 16, 30, 64, slice(20, 44)
#: guidance, sampler, model calls of a sample and a step (a backward pass is one)
WAYS: dict[str, tuple[Callable[[Measurement], Guidance], Sampler, int]] = {
    "DDNM, smooth": (lambda m: DDNM(m, smooth=True), ANCESTRAL, 1),
    "DiffPIR, draw": (lambda m: DiffPIR(m, 1.0, PHOTOS, draw=True), ANCESTRAL, 1),
    "Pi-GDM": (lambda m: PiGDM(m, PHOTOS), ANCESTRAL, 2),
    "DAPS": (Guidance, DAPS(2), 2),
    "PnP-DM": (Guidance, SplitGibbs(4, 5), 5),
    "TDS, DiffPIR, 8": (lambda m: DiffPIR(m, 1.0, PHOTOS), TDS(8, batch=32), 8),
    "DDSMC, 8": (Guidance, DDSMC(8, batch=32), 8),
    "MCGDiff, 8": (Guidance, MCGDiff(8, batch=32), 8),
}


def measured(clean: Tensor) -> Measurement:
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., HOLE, HOLE] = 1
    return Measurement.simulate(Inpainting(mask), clean, GaussianNoise(0.01), 0)


def judged(x: Tensor, truth: Tensor) -> dict[str, float]:
    """Of samples `N C H W` and the truth `C H W`, in the hole."""
    x, truth = (each[..., HOLE, HOLE].flatten(-3) for each in (x, truth))
    size, mean = truth.numel() ** 0.5, x.mean(0)
    apart = torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))
    rank = (x < truth).sum(0)
    return {
        "energy": 100 * ((x - truth).norm(dim=1).mean() - apart / 2).item() / size,
        "mean": psnr(mean[None], truth), "one": decibels(x, truth).mean().item(),
        "spread": ((1 + 1 / len(x)) ** 0.5 * x.std(0).norm() / (mean - truth).norm()).item(),
        "inner": ((rank >= 2) & (rank <= len(x) - 2)).float().mean().item(),
    }  # fmt: skip


def rows(prior: Prior, photographs: int, only: str) -> list[dict]:
    clean = ((held_out_crops() + 1) / 2)[::6][:photographs, :, 32:96, 32:96]
    found = []
    for name, (block, sampler, calls) in WAYS.items():
        if only not in name:
            continue
        each = []
        for truth in clean:
            measurement = measured(truth.expand(COUNT, -1, -1, -1))
            measurement = measurement.take(torch.zeros(COUNT, dtype=torch.long))  # one photograph, one noise
            drawn = sample(prior, block(measurement), (COUNT, 3, SIDE, SIDE), STEPS, sampler=sampler)
            each.append(judged(drawn, truth))
        row = {key: sum(one[key] for one in each) / len(each) for key in each[0]}
        found.append({"method": name, "calls": calls * STEPS, "photographs": len(each), **row})
        words = "  ".join(f"{key} {value:6.2f}" for key, value in row.items())
        print(f"{name:16} {calls * STEPS:4d} calls  {words}", flush=True)
    return found


def memory(prior: Prior) -> list[dict]:
    """The peak of a step of MCGDiff beside the particles themselves."""
    clean, found = ((held_out_crops()[:1] + 1) / 2)[..., 32:96, 32:96], []
    for count in (8, 32, 128):
        start = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        run = Run(prior, [level(1.0), level(0.5), level(0.0)], [Guidance(measured(clean))], Streams(0, "sampling", 1))
        sampler = MCGDiff(count, batch=8)
        peak = peak_memory(lambda: sampler(run, start))  # noqa: B023
        found.append({"particles": count, "mib": peak / 2**20, "mib_particles": count * start.numel() * 4 / 2**20})
        print("{particles:5d} particles  peak {mib:5.1f} MiB; once themselves {mib_particles:.1f}".format(**found[-1]))
    return found


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one photograph")
    parser.add_argument("--only", default="", help="methods whose name holds this")
    parser.add_argument("--memory", action="store_true", help="the memory of particles instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    prior = photo_prior()
    if options.memory:
        print(json.dumps({"memory": memory(prior)}))
    else:
        print(json.dumps({"rows": rows(prior, 1 if options.quick else 3, options.only)}))


if __name__ == "__main__":
    main()
