"""Methods of deepinv and azula, and LanPaint, beside ours on the problems of frontier.py: quality against calls.

The same prior as denoiser, the same measurements, the same measure, the same count of calls, forward and backward.
Each method in the settings that its library has or recommends, and in a few more that are sensible here; on the
library's own noise levels and on ours. How many steps: as many as about 20, 50 and 100 calls allow.

LanPaint (https://github.com/scraed/LanPaint) is a pack for ComfyUI. Where it lies in FOLDER, its own node samples in a
real ComfyUI on a MODEL of the same prior, on the problems of masks.

    python3 dev.py bench peers [--quick] [--task NAME] [--library NAME | --lanpaint FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from ..algebra.streams import Streams
from ..diffusion.run import Run
from ..guidance.base import Guidance
from ..guidance.diffpir import PHOTOS, DiffPIR
from ..guidance.dps import DPS
from ..guidance.mmps import MMPS
from ..guidance.pigdm import PiGDM, PiGDMPublished
from ..measurement.measurement import Measurement
from ..operators.diagonal import Mask
from ..samplers.auto import for_pictures
from ..samplers.base import Sampler
from ..samplers.ddim import GuidedDDIM
from ..samplers.dpm import DPMSolver
from .counted import Counted
from .frontier import Task, levels, tasks
from .peer import FEWEST, Peer
from .peers_azula import azula_peers
from .peers_deepinv import deepinv_peers
from .peers_lanpaint import SETTINGS, LanPaint, affordable
from .record_page import BUDGETS, OURS, PAINTED

# Ours


def sampled(task: Task, prior: Counted, steps: int, blocks: Sequence[Guidance], sampler: Sampler) -> Tensor:
    measurement, draw = task.measurement, Streams(1, "sampling", len(task.measurement.y))
    run = Run(prior, levels(steps), blocks, draw)
    like = torch.zeros(task.count, *measurement.image_shape, dtype=measurement.y.dtype)
    return sampler(run, 0.5 + run.levels[0].sigma * draw.normal(like))


def with_ours(make: Callable[[Measurement, int], Guidance], sampler: Sampler) -> Callable[[Task, Counted, int], Tensor]:
    return lambda task, prior, steps: sampled(task, prior, steps, [make(task.measurement, steps)], sampler)


def solved(gradient: bool, task: Task, prior: Counted, calls: int) -> Tensor:
    """By what *Solve* takes for so many calls."""
    chosen, sampler, steps = for_pictures(task.measurement, calls, gradient=gradient)
    return sampled(task, prior, steps, chosen.blocks, sampler)


def our_ways() -> Iterator[Peer]:
    """The methods that the libraries have as well, in our steps of second order too."""
    ddpm, ode, sde = ("DDPM", GuidedDDIM(1.0)), ("DPM-Solver++", DPMSolver()), ("DPM-Solver++ SDE", DPMSolver(True))
    rows = [
        ("DiffPIR", "smooth", 1, lambda m, n: DiffPIR(m, 1.0, PHOTOS, smooth=True), (ddpm, sde)),
        ("Pi-GDM", "denoiser", 2, lambda m, n: PiGDM(m, PHOTOS), (ddpm, sde)),
        ("Pi-GDM", "denoiser, deviation 2", 2, lambda m, n: PiGDM(m, 2.0), (ddpm,)),
        ("Pi-GDM", "published", 2, lambda m, n: PiGDMPublished(m, PHOTOS), (ddpm, ("DDIM", GuidedDDIM(0.0)))),
        ("DPS", "1000 / steps", 2, lambda m, n: DPS(m, 1000 / n * (m.y[0].numel() / (3 * 256**2)) ** 0.5), (ddpm,)),
        *(
            ("MMPS", f"{k} iterations", k + 2, lambda m, n, k=k: MMPS(m, k), (ddpm, ode, sde) if k == 3 else (ode, sde))
            for k in (2, 3, 5)
        ),
    ]
    for method, settings, cost, make, samplers in rows:
        for name, sampler in samplers:
            yield Peer(OURS, method, f"{settings}, {name}", cost, with_ours(make, sampler))
    for settings, gradient in (("no gradient", False), ("gradient", True)):
        yield Peer(OURS, "Auto", settings, 1, partial(solved, gradient))


# All of them


def point(task: Task, peer: Peer, steps: int) -> dict:
    prior = Counted(task.denoiser)
    torch.manual_seed(1)
    with torch.no_grad():
        x = peer.sample(task, prior, steps)
    quality = task.quality(x.nan_to_num(1e6))
    return {
        "task": task.name, "library": peer.library, "method": peer.method,
        "settings": f"{peer.settings}, {steps} steps", "calls": prior.calls,
        "quality": quality if math.isfinite(quality) else None, "auto": peer.method == "Auto",
    }  # fmt: skip


def suits(peer: Peer, task: Task) -> bool:
    y = task.measurement.y
    return (isinstance(task.measurement.operator, Mask) or not peer.masks) and (
        bool((y == y[:1]).all()) or not peer.alike
    )


def measured(task: Task, library: str | None) -> Iterator[dict]:
    """The points of ours, azula and deepinv, or of one of them."""
    everybody = (*our_ways(), *azula_peers(), *deepinv_peers())
    for peer in (each for each in everybody if suits(each, task) and library in (None, each.library)):
        for budget in BUDGETS[:1] if peer.method == "DPIR" else BUDGETS:
            if FEWEST * peer.cost <= budget:
                yield point(task, peer, budget // peer.cost)


def painted(task: Task, lanpaint: LanPaint) -> Iterator[dict]:
    """LanPaint's points; also at the budgets of the table that it has for itself."""
    for settings in SETTINGS:
        iterations, length, held = settings
        words = f"{iterations} iterations of {length:g}, lambda {held:g}"
        peer = Peer("LanPaint", "LanPaint", words, 1, partial(lanpaint, settings), masks=True)
        if suits(peer, task):
            for steps in sorted({affordable(iterations, budget) for budget in (*BUDGETS, *PAINTED)} - {0}):
                yield point(task, peer, steps)


def shown(name: str, points: list[dict]) -> None:
    print(f"\n{name}", flush=True)
    for budget in BUDGETS if points else ():
        within = [each for each in points if each["calls"] <= budget and each["quality"] is not None]
        for row in sorted(within, key=lambda row: row["quality"])[:8]:
            words = f"{row['library']:10s} {row['method']:8s} {row['settings']}"
            print(f"  {budget:3d}: {row['quality']:8.4f}  {row['calls']:4d} calls  {words}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--task", help="one task only")
    parser.add_argument("--library", choices=(OURS, "azula", "deepinv"), help="one library only")
    parser.add_argument("--lanpaint", metavar="FOLDER", help="run LanPaint, which lies there, and no library")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    points = []
    lanpaint = LanPaint(options.lanpaint) if options.lanpaint else None
    for name, make in tasks(200 if options.quick else 1000).items():
        if options.task in (None, name):
            task = make()
            found = list(painted(task, lanpaint) if lanpaint else measured(task, options.library))
            shown(name, found)
            points += found
    print(json.dumps({"points": points} | ({"of": lanpaint.version} if lanpaint else {})))


if __name__ == "__main__":
    main()
