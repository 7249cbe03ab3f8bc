"""Quality against model calls: what each method buys, and what Auto chooses.

Every way gets the same number of model calls, a forward and a backward pass counted as one each, and makes as many
steps of them as it can. What is measured; smaller is better:

    texture, mixture   a stationary Gaussian of 12 x 12 pixels, correlated over 4, and 3 or 8 smooth pictures of 8 x 8
                       with small deviations around them: the sliced Wasserstein-1 distance to exact samples over the
                       posterior's deviation
    textures, mixtures the same of 10 x 10, mean over twelve measurements
    digits             the embedded digits prior, ten held-out digits, the lower half hidden: the squared error there,
                       mean over samples (a posterior sample has twice the least possible)
    photographs        the embedded prior, crops of 64 x 64 of held-out photographs: the energy score of samples in what
                       is hidden, else everywhere (percent of white, as in `hole`)
    ... restored       the same, restored: the RMS error of the mean PSNR (percent of white; 0.2 dB are 2.3 %)

A star: within 5 %, or 0.2 dB, of the best way of as many calls. `--train` takes other pictures and draws instead, for
choices. `--out` keeps what has been measured, and the next time only the rest is.

    python3 dev.py bench frontier [--quick] [--train] [--task WORDS] [--out points.json]

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..algebra.streams import Streams
from ..diffusion.level import Level
from ..diffusion.run import Run
from ..guidance.base import Guidance
from ..guidance.ddnm import DDNM
from ..guidance.diffpir import PHOTOS, DiffPIR
from ..guidance.dps import DPS
from ..guidance.mmps import MMPS
from ..guidance.pigdm import PiGDM, PiGDMPublished
from ..measurement.measurement import Measurement
from ..measurement.smooth import smooth_start
from ..samplers.annealed import AnnealedRestoration, restoration_sigmas_for
from ..samplers.auto import for_pictures
from ..samplers.base import Sampler
from ..samplers.daps import DAPS
from ..samplers.ddim import GuidedDDIM
from ..samplers.dpm import DPMSolver
from ..samplers.split_gibbs import SplitGibbs
from .counted import Counted
from .frontier_tasks import DEVIATION, SIGMA_Y, Size, Task, problems, tasks

CALLS = (20, 50)
__all__ = ["DEVIATION", "SIGMA_Y", "Task", "levels", "tasks"]  # of `peers`


@dataclass(frozen=True)
class Way:
    """A method with its settings.

    Args:
        cost: model calls of a step.
        block: the guidance of a measurement, for so many steps.
        sampler: that it runs in.
        photographs: whether it runs on photographs, too; it should have a chance there.
    """

    method: str
    settings: str
    cost: int
    block: Callable[[Measurement, int], Guidance]
    sampler: Sampler = GuidedDDIM(1.0)
    photographs: bool = True


def carried(measurement: Measurement, steps: int) -> Guidance:
    return Guidance(measurement)


def data_step(measurement: Measurement, steps: int) -> Guidance:
    """DDNM where there is no noise, DiffPIR where there is."""
    noisy = measurement.resolved().noisy
    return DiffPIR(measurement, 1.0, PHOTOS, smooth=True) if noisy else DDNM(measurement, smooth=True)


def drawn(measurement: Measurement, steps: int) -> Guidance:
    return DiffPIR(measurement, 1.0, PHOTOS, smooth=True, draw=True)


def trusting(trust: float) -> Callable[[Measurement, int], Guidance]:
    return lambda measurement, steps: DiffPIR(measurement, trust, PHOTOS, smooth=True)


def travel(repeats: int, **where) -> GuidedDDIM:
    return GuidedDDIM(1.0, repeats=repeats, jump=1, **where)


#: DPM-Solver++ 2M (SDE): steps of second order for the price of one
SECOND = DPMSolver(stochastic=True)
SAMPLES = [
    Way("DiffPIR", "smooth", 1, data_step),
    Way("DiffPIR", "smooth, second order", 1, data_step, SECOND),
    Way("DiffPIR", "smooth, draw, second order", 1, drawn, SECOND),
    Way("DiffPIR", "smooth, travel 1 x 2", 2, data_step, travel(2), False),
    Way("DiffPIR", "smooth, draw", 1, drawn),
    Way("DiffPIR", "smooth, draw, travel 1 x 2", 2, drawn, travel(2)),
    Way("Pi-GDM", "published", 2, lambda m, n: PiGDMPublished(m, PHOTOS), photographs=False),
    Way("Pi-GDM", "denoiser", 2, lambda m, n: PiGDM(m, PHOTOS)),
    Way("Pi-GDM", "denoiser, limit 2, second order", 2, lambda m, n: PiGDM(m, PHOTOS, limit=2.0), SECOND),
    Way("DPS", "1000 / steps", 2, lambda m, n: DPS(m, 1000 / n * (m.y[0].numel() / (3 * 256**2)) ** 0.5)),
    Way("MMPS", "3 iterations", 5, lambda m, n: MMPS(m, 3), photographs=False),
    Way("MMPS", "3 iterations, second order", 5, lambda m, n: MMPS(m, 3), SECOND),
    Way("MMPS", "1 iteration, second order", 3, lambda m, n: MMPS(m, 1), SECOND),
    Way("PnP-DM", "inner 4, hold 1", 4, carried, SplitGibbs(4, 1), False),
    Way("DAPS", "inner 2", 2, carried, DAPS(2)),
]  # fmt: skip
RESTORATIONS = [
    *(
        Way("DiffPIR", f"smooth, trust {trust:g}", 1, trusting(trust), AnnealedRestoration())
        for trust in (0.25, 0.5, 1)
    ),
    Way("DDNM", "smooth", 1, lambda m, n: DDNM(m, smooth=True), AnnealedRestoration()),
]


def levels(steps: int) -> list[Level]:
    """From pure noise, Karras' spacing."""
    ramp = torch.linspace(20.0 ** (1 / 7), 0.02 ** (1 / 7), steps, dtype=torch.float64) ** 7
    return [*map(_level, ramp.tolist()), _level(0.0)]


def _level(sigma: float) -> Level:
    return Level(1.0, sigma / 2, 2.0)


def quality(task: Task, blocks: Sequence[Guidance], sampler: Sampler, steps: int) -> tuple[float, int]:
    """What the task says of the answers, and the model calls."""
    prior, measurement = Counted(task.denoiser), task.measurement
    draw = Streams(1, "sampling")
    if task.restore:
        ladder = [*map(_level, restoration_sigmas_for(measurement, steps).tolist())]
        run, x = Run(prior, ladder, blocks, draw), smooth_start(measurement).clamp(0, 1)
    else:
        run = Run(prior, levels(steps), blocks, draw)
        like = torch.zeros(task.count, *measurement.image_shape, dtype=measurement.y.dtype)
        x = 0.5 + run.levels[0].sigma * draw.normal(like)
    x = sampler(run, x).nan_to_num(1e6)
    return task.quality(x.clamp(0, 1) if task.restore else x), prior.calls


def runs(task: Task, calls: int) -> Iterator[tuple[str, str, Sequence[Guidance], Sampler, int, bool]]:
    """Method, settings, blocks, sampler, steps, and whether Auto chose them."""
    photographs = task.name.startswith("photographs")
    for way in RESTORATIONS if task.restore else [way for way in SAMPLES if way.photographs or not photographs]:
        steps = calls // way.cost
        yield way.method, way.settings, [way.block(task.measurement, steps)], way.sampler, steps, False
    known = set()
    for settings, gradient in (("auto", True), ("auto, no gradient", False)):
        chosen, sampler, steps = for_pictures(task.measurement, calls, task.restore, gradient)
        if chosen.words in known:
            continue
        known.add(chosen.words)
        names = dict.fromkeys(block.label for block in chosen.blocks)
        sampler = AnnealedRestoration() if task.restore else sampler
        yield ", ".join(names), settings, chosen.blocks, sampler, steps, True


def measured(task: Task, calls: int, known: list[dict], keep: Callable[[dict], None]) -> list[dict]:
    """The points of a task for so many calls, those that are known already as they are."""
    found = []
    for method, settings, blocks, sampler, steps, auto in runs(task, calls):
        key = {"task": task.name, "method": method, "settings": f"{settings}, {steps} steps"}
        point = next((row for row in known if key.items() <= row.items()), None)
        if point is None:
            with torch.no_grad():
                value, counted = quality(task, blocks, sampler, steps)
            point = {**key, "calls": counted, "quality": value, "auto": auto}
            keep(point)
        found.append(point)
    return found


def shown(task: Task, points: list[dict]) -> None:
    best = min(row["quality"] for row in points)
    for row in sorted(points, key=lambda row: row["quality"]):
        mark = "*" if task.reached(row["quality"], best) else " "
        who = "A" if row["auto"] else " "
        print(
            f"{mark}{who} {row['calls']:4d} calls {row['quality']:9.4f}  {row['method']}: {row['settings']}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer samples and photographs, 20 calls only")
    parser.add_argument("--train", action="store_true", help="other pictures and draws, for choices")
    parser.add_argument("--task", default="", help="tasks whose name holds this")
    parser.add_argument("--out", type=Path, help="a file of points to go on from")
    options = parser.parse_args()
    torch.set_num_threads(1)
    out, points = options.out, []
    known = json.loads(out.read_text())["points"] if out and out.exists() else []

    def keep(point: dict) -> None:
        known.append(point)
        if out:
            out.write_text(json.dumps({"points": known}))

    size = Size(2, 60, 1, 2, 2, 2) if options.quick else Size()
    for name, make in problems(size, options.train).items():
        if options.task not in name:
            continue
        task = make()
        for calls in CALLS[:1] if options.quick else CALLS:
            print(f"\n{name}, {calls} calls", flush=True)
            own = measured(task, calls, known, keep)
            shown(task, own)
            points += own
    finite = [row | {"quality": row["quality"] if math.isfinite(row["quality"]) else None} for row in points]
    print(json.dumps({"points": finite}))


if __name__ == "__main__":
    main()
