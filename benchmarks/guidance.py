"""What guidance costs, and how it compares with the same methods elsewhere.

Rows: one guided step of each method with the embedded photo prior, over the bare model (a forward pass, or forward and
as many backward passes as the method makes, at as many states), in time and peak memory, measured in turn.
Peers: whole runs of deepinv's and azula's methods with the same network, number of model calls and operator, over ours;
and, where the recipe is the same, the largest difference between the two pictures (in [-1, 1]).

    python3 dev.py bench guidance [--quick]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ..diffusion.level import Level
from ..diffusion.run import Run
from ..diffusion.state import Step
from ..guidance.base import Guidance
from ..guidance.ddnm import DDNM
from ..guidance.ddrm import DDRM
from ..guidance.dds import DDS
from ..guidance.diffpir import DiffPIR
from ..guidance.dps import DPS, DPSGaussian
from ..guidance.dsg import DSG
from ..guidance.general import General
from ..guidance.lgd import LGDMC
from ..guidance.mcg import MCG
from ..guidance.mmps import MMPS
from ..guidance.mpgd import MPGD
from ..guidance.pigdm import PiGDM
from ..guidance.projection import NoisedProjection
from ..guidance.score_ald import ScoreALD
from ..guidance.snips import SNIPS
from ..guidance.stsl import STSL
from ..guidance.tmpd import TMPD
from ..measurement.measurement import Measurement
from ..priors.unet import denoise
from .guidance_peers import peers
from .side_by_side import in_words, photo_measurement, photo_network, ratio_of_times

#: the method, its `jacobian` in words, and the number of backward passes of a step
METHODS: list[tuple[str, str, int, Callable[[Measurement], Guidance]]] = [
    ("Score-ALD", "none", 0, ScoreALD),
    ("DDNM+", "none", 0, DDNM),
    ("DDRM", "none", 0, DDRM),
    ("SNIPS", "none", 0, SNIPS),
    ("DiffPIR", "none", 0, DiffPIR),
    ("DiffPIR, smooth", "none", 0, lambda m: DiffPIR(m, smooth=True)),
    ("DDS", "none", 0, DDS),
    ("MPGD", "none", 0, MPGD),
    ("Noised projection", "none", 0, NoisedProjection),
    ("General", "none", 0, General),
    ("DPS", "none", 0, lambda m: DPS(m, jacobian=False)),
    ("Pi-GDM", "none", 0, lambda m: PiGDM(m, jacobian=False)),
    ("LGD-MC", "none", 0, lambda m: LGDMC(m, jacobian=False)),
    ("DSG", "none", 0, lambda m: DSG(m, jacobian=False)),
    ("DPS", "exact", 1, DPS),
    ("DPS (Gaussian form)", "exact", 1, DPSGaussian),
    ("Pi-GDM", "exact", 1, PiGDM),
    ("LGD-MC", "exact", 1, LGDMC),
    ("STSL", "exact", 1, STSL),
    ("DSG", "exact", 1, DSG),
    ("MCG", "exact", 1, MCG),
    ("General", "exact", 1, lambda m: General(m, lifting="jacobian")),
    ("TMPD", "exact", 2, TMPD),
    ("MMPS, 1 iteration", "exact", 2, lambda m: MMPS(m, 1)),
    ("MMPS, 3 iterations", "exact", 4, lambda m: MMPS(m, 3)),
]
#: at how many states a method asks the model in a step, where it is not one
STATES = {"STSL": 2}


# Cost of a step


def peak_memory(job: Callable[[], object]) -> int:
    """The most that a job holds at once of what it allocates itself, in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        job()
    held = most = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def step_costs(size: int, repeats: int) -> list[dict]:
    network, measurement = photo_network(), photo_measurement(size)
    t, s = Level(1.0, 0.3, 2.0), Level(1.0, 0.2, 2.0)
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    x_t = measurement.y + t.sigma * noise

    def denoiser(u: Tensor, level: Level) -> Tensor:
        return (denoise(network, 2 * u - 1, u.new_full((1,), 2 * level.sigma)) + 1) / 2

    def bare(backward: int, states: int) -> Tensor:
        if states > 1:
            bare(backward, states - 1)
        if not backward:
            with torch.no_grad():
                return denoiser(x_t, t)
        leaf = x_t.clone().requires_grad_()
        x0 = denoiser(leaf, t)
        for k in range(backward):
            torch.autograd.grad(x0, leaf, noise, retain_graph=k + 1 < backward)
        return x0.detach()

    def guided(block: Guidance) -> Tensor:
        with torch.no_grad():
            run = Run(denoiser, [t, s], [block])
            estimate = run.guided(x_t, t, s)
            eps = (x_t - t.alpha * estimate.x0) / t.sigma
            x_s = s.alpha * estimate.x0 + s.sigma * eps + s.vp_norm * estimate.shift
            step = Step(t, s, estimate.x0, eps, 0.1, noise, lambda like: noise)
            return run.transit(x_s, step)

    rows = []
    for name, jacobian, backward, make in METHODS:
        block = make(measurement)
        ours, model = partial(guided, block), partial(bare, backward, STATES.get(name, 1))
        ours(), model()
        cost, spread = ratio_of_times(ours, model, repeats)
        memory = peak_memory(ours) / peak_memory(model)
        rows.append({"method": name, "jacobian": jacobian, "cost_ratio": cost, "cost_spread": spread})
        rows[-1]["memory_ratio"] = memory
        print(f"{name:22s} jacobian {jacobian:6s} time {in_words(cost, spread)}  memory {memory:5.2f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small pictures, few repeats")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    rows = step_costs(96 if quick else 256, 9 if quick else 3)
    others = peers(64 if quick else 128, 10, 9)
    print(json.dumps({"rows": rows, "peers": others}))


if __name__ == "__main__":
    main()
