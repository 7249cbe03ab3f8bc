"""Sampling the posterior of a Gaussian mixture: how far from exact samples is each method?

The problem of MCGDiff (Cardoso et al. 2023, https://arxiv.org/abs/2308.07983, section 4): 25 round components, a linear
measurement of 1 to 4 numbers, and the sliced Wasserstein-1 distance between 2000 samples of a method and 2000 exact
ones, over 100 directions; mean and 95 % interval over random problems.

The levels are chosen as in the authors' code (`levels_of`). That matters more than most methods do.

DPS has the paper's step, 0.1 / norm(r) on the gradient of norm(r)^2, that is 0.2 grad norm(r).

Particle methods have particles of their own for every sample; MCGDiff's published figures are for 1,000 of them. They
run in the span of the problem (`Problem.spanned`).

    python3 dev.py bench mixture [--quick] [--cell DX DY STEPS] [--only NAME] [--keep FILE]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..algebra.streams import SharedStreams, Streams
from ..diffusion.level import Level
from ..diffusion.run import Run
from ..guidance.base import Guidance
from ..guidance.ddnm import DDNM
from ..guidance.ddrm import DDRM
from ..guidance.dds import DDS
from ..guidance.diffpir import DiffPIR
from ..guidance.dps import DPS
from ..guidance.dsg import DSG
from ..guidance.lgd import LGDMC
from ..guidance.mcg import MCG
from ..guidance.mmps import MMPS
from ..guidance.mpgd import MPGD
from ..guidance.pigdm import PiGDM, PiGDMPublished
from ..guidance.projection import NoisedProjection
from ..guidance.score_ald import ScoreALD
from ..guidance.snips import SNIPS
from ..guidance.stsl import STSL
from ..guidance.tmpd import TMPD
from ..measurement.measurement import Measurement
from ..samplers.ddim import GuidedDDIM
from ..samplers.ddsmc import DDSMC
from ..samplers.fps import FPS
from ..samplers.matched import MatchedTDS
from ..samplers.mcgdiff import MCGDiff
from ..samplers.particles import ParticleSampler
from ..samplers.tds import TDS
from .counted import Counted
from .mixture_problem import Problem, levels_of

SAMPLES, DIRECTIONS = 2000, 100
ETA = {20: 0.6, 100: 0.85}
METHODS: dict[str, Callable[[Measurement], Guidance]] = {
    "DDRM": DDRM,
    # our zeta counts pictures in [-1, 1]; here one unit is one unit, so 0.1 is a step of 0.2 grad norm(r)
    "DPS": lambda m: DPS(m, 0.1),
    "DPS, no Jacobian": lambda m: DPS(m, 0.1, False),
    "LGD-MC": lambda m: LGDMC(m, 0.1),
    "STSL": lambda m: STSL(m, 0.1),
    "DSG": DSG,
    "MCG": lambda m: MCG(m, 0.1),
    "MPGD": lambda m: MPGD(m, 0.1),
    "Noised projection": NoisedProjection,
    "Score-ALD": ScoreALD,
    "Pi-GDM": PiGDM,
    "Pi-GDM, published": PiGDMPublished,
    "Pi-GDM, no Jacobian": lambda m: PiGDM(m, jacobian=False),
    "TMPD": TMPD,
    "MMPS": lambda m: MMPS(m, 4),
    "DDNM+": DDNM,
    "SNIPS": SNIPS,
    "DDS": DDS,
    "DiffPIR": DiffPIR,
}
#: a few for each sample: what 1,000 particles of MCGDiff take is 1,000 model calls a step
PARTICLES: dict[str, tuple[ParticleSampler, Callable[[Measurement], Guidance]]] = {
    "MCGDiff, 32": (MCGDiff(32, batch=10**6), Guidance),
    "FPS-SMC, 32": (FPS(32, batch=10**6), Guidance),
    "DDSMC, 32": (DDSMC(32, batch=10**6), Guidance),
    "DDSMC, wide, 32": (DDSMC(32, split=5, settle=20, deviation=10.0, batch=10**6), Guidance),
    "TDS, Pi-GDM, 32": (TDS(32, batch=10**6), PiGDM),
    "TDS, wide, 128": (TDS(128, split=5, settle=20, deviation=10.0, batch=10**6), lambda m: PiGDM(m, 10.0, False)),
    "TDS, matched, plain, 32": (MatchedTDS(32, batch=10**6), Guidance),
    "TDS, matched, 32": (MatchedTDS(32, split=5, settle=20, batch=10**6), Guidance),
}


def sliced_wasserstein(a: Tensor, b: Tensor, seed: int) -> float:
    """Mean over random directions of the Wasserstein-1 distance of the projections."""
    directions = torch.randn(a.shape[1], DIRECTIONS, generator=torch.Generator().manual_seed(seed))
    directions = directions / directions.norm(dim=0)
    return ((a @ directions).sort(0).values - (b @ directions).sort(0).values).abs().mean().item()


def run(problem: Problem, block: Guidance, steps: int, seed: int) -> tuple[Tensor, float]:
    """The samples of a method, and its model calls (a backward pass counts as one)."""
    prior, dx = Counted(problem.denoiser), problem.means.shape[1]
    levels = levels_of(problem, steps)
    draw = Streams(seed, "sampling")  # one stream: thousands of them would take most of the time
    start = draw.normal(torch.zeros(SAMPLES, dx, 1, 1))
    with torch.no_grad():
        x = GuidedDDIM(ETA[steps])(Run(prior, levels, [block], draw), start)
    return x.flatten(1), prior.calls


def run_particles(problem: Problem, sampler: ParticleSampler, block: Guidance, steps: int, seed: int):
    """The samples of a particle method, and its model calls for each sample (a backward pass counts as one).

    Its own start, steps and particles for each sample, as if it were alone.
    """
    small, basis = problem.spanned()
    block = replace(block, measurement=small.measurement)
    levels, rows = levels_of(problem, steps), 0

    class Prior:
        def __call__(self, x: Tensor, level: Level) -> Tensor:
            nonlocal rows
            rows += len(x)
            return small.denoiser(x, level)

        def linearise(self, x: Tensor, level: Level):
            nonlocal rows
            rows += len(x)
            x0, product = small.linearise(x, level)

            def vjp(v: Tensor, last: bool = False) -> Tensor:
                nonlocal rows
                rows += len(v)
                return product(v)

            return x0, vjp

    draw = SharedStreams(seed, "sampling", SAMPLES)
    x = sampler(Run(Prior(), levels, [block], draw), draw.normal(torch.zeros(SAMPLES, basis.shape[1], 1, 1))).flatten(1)
    other = torch.randn(SAMPLES, len(basis), generator=torch.Generator().manual_seed(seed)) * x[:, -1:].std()
    return x @ basis.T + other - (other @ basis) @ basis.T, rows / SAMPLES


def distances(name: str, dx: int, dy: int, steps: int, problems: int) -> dict:
    """One row of the table: a method's distances and calls in a cell; `exact` is a second exact sample."""
    pairs = []
    for k in range(problems):
        problem = Problem.random(dx, dy, k)
        if name == "exact":
            samples, calls = problem.posterior(SAMPLES, 2 * k + 10001), 0
        elif name in METHODS:
            samples, calls = run(problem, METHODS[name](problem.measurement), steps, k)
        else:
            sampler, make = PARTICLES[name]
            samples, calls = run_particles(problem, sampler, make(problem.measurement), steps, k)
        exact = problem.posterior(SAMPLES, 2 * k + 10000)
        pairs.append((sliced_wasserstein(samples.nan_to_num(1e6), exact, k), calls))
    values = torch.tensor([value for value, _ in pairs], dtype=torch.float64)
    ci = 1.96 * values.std().item() / math.sqrt(problems) if problems > 1 else math.nan
    row = {"dx": dx, "dy": dy, "steps": steps, "problems": problems, "method": name}
    row |= {"sw": values.mean().item(), "ci": ci, "calls": sum(calls for _, calls in pairs) / problems}
    print(f"{dx:4d} {dy:2d} {steps:4d}  {name:22s} {row['sw']:8.2f} +- {ci:4.2f} {row['calls']:6.0f} calls", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="8 dimensions, one number measured, 20 steps")
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--cell", type=int, nargs=3, metavar=("DX", "DY", "STEPS"), help="one cell only")
    parser.add_argument("--only", default="", help="methods whose name holds this")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="hold finished rows there, and take up from them")
    options = parser.parse_args()
    grid = [(dx, dy, steps) for steps in ETA for dx in (8, 80, 800) for dy in (1, 2, 4)]
    if options.quick:
        grid = [(8, 1, 20)]
    if options.cell:
        grid = [tuple(options.cell)]
    cells = json.loads(options.keep.read_text())["cells"] if options.keep and options.keep.exists() else []
    kept = {(row["dx"], row["dy"], row["steps"], row["method"]) for row in cells}
    for each in grid:
        for name in ("exact", *METHODS, *PARTICLES):
            if options.only in name and (*each, name) not in kept:
                cells.append(distances(name, *each, options.problems))
                if options.keep:
                    options.keep.write_text(json.dumps({"cells": cells}))
    print(json.dumps({"cells": cells}))


if __name__ == "__main__":
    main()
