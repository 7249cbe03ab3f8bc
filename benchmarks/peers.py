"""The methods of deepinv and azula, and LanPaint, on the problems of frontier.py: quality against model calls.

The same prior as denoiser, the same measurements, the same measure, the same count of calls, forward and backward.
Each method in the settings that its library has or recommends, and in a few more that are sensible here; on the
library's own noise levels and on ours. How many steps: as many as about 20, 50 and 100 calls allow.

LanPaint (https://github.com/scraed/LanPaint) is a pack for ComfyUI. Where it lies in FOLDER, its own node samples in a
real ComfyUI on a MODEL of the same prior, on the problems of masks.

    python3 dev.py bench peers [--quick] [--task NAME] [--lanpaint FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import azula.denoise
import azula.linalg.covariance
import azula.noise
import azula.sample
import deepinv
import torch
from azula.guidance.diffpir import DiffPIRDenoiser
from azula.guidance.dps import DPSSampler
from azula.guidance.jfps import JFPSDenoiser
from azula.guidance.mmps import MMPSDenoiser
from azula.guidance.pgdm import PGDMSampler
from azula.guidance.repaint import RePaintSampler
from azula.guidance.tds import TDSSampler
from azula.guidance.tmpd import TMPDenoiser
from deepinv.sampling import diffusion_sde, noisy_datafidelity, sde_solver
from torch import Tensor

from ..diffusion.level import Level
from ..operators.diagonal import Mask
from .counted import Counted
from .frontier import DEVIATION, SIGMA_Y, Task, levels, tasks
from .guidance import Table
from .peers_lanpaint import SETTINGS, LanPaint, affordable
from .record import BUDGETS, PAINTED, best, number, points_of

#: noise over signal where a library's own levels begin, [-1, 1] unit: as in ours
SIGMA_MAX = 20.0


@dataclass(frozen=True)
class Peer:
    """A method with its settings.

    Args:
        cost: model calls of a step.
        sample: pictures `B C H W` in [0, 1] of a task, by a prior, in so many steps.
        masks: whether it is for masks only.
        alike: whether all samples have to be of one measurement.
    """

    library: str
    method: str
    settings: str
    cost: int
    sample: Callable[[Task, Counted, int], Tensor]
    masks: bool = False
    alike: bool = False


# azula: states of pictures in [-1, 1], x_t = alpha x + sigma z


class AzulaPrior(azula.denoise.Denoiser):
    """(x_t, t) to the mean of x_0, both in [-1, 1]."""

    def __init__(self, prior: Counted, schedule: azula.noise.Schedule):
        super().__init__()
        self.prior, self.schedule = prior, schedule

    def forward(self, x_t: Tensor, t: Tensor, **kwargs) -> azula.denoise.DiracPosterior:
        alpha, sigma = self.schedule(t)
        level = Level(1.0, (sigma / alpha).item() / 2, 2.0)
        return azula.denoise.DiracPosterior(2 * self.prior((x_t / alpha + 1) / 2, level) - 1)


def flat(task: Task) -> tuple[Tensor, Callable[[Tensor], Tensor], float]:
    """y for pictures in [-1, 1], one row for each sample, A, and the noise."""
    operator, y = task.measurement.operator, task.measurement.y
    white = operator.forward(y.new_ones(1, *task.measurement.image_shape))
    return (2 * y - white).flatten(1), lambda x: operator.forward(x).flatten(1), 2 * SIGMA_Y


def own_levels(steps: int) -> azula.noise.Schedule:
    return azula.noise.VPSchedule(alpha_min=(1 + SIGMA_MAX**2) ** -0.5)


def our_levels(steps: int) -> azula.noise.Schedule:
    """Down to a thousandth where ours go to 0: its multi-step samplers divide by the noise."""
    return Table([*(Level(1.0, 2 * level.sigma) for level in levels(steps)[:-1]), Level(1.0, 1e-3)])


def walk(sampler: azula.sample.Sampler, task: Task) -> Tensor:
    """From noise to pictures in [0, 1]; the noise has the unit of the measurement's numbers."""
    y = task.measurement.y
    start = sampler.init((task.count, *task.measurement.image_shape), mean=0.0, var=0.0, dtype=y.dtype)
    return (sampler(start) + 1) / 2


def with_azula(
    schedule: Callable[[int], azula.noise.Schedule],
    make: Callable[[Task, AzulaPrior, int], azula.sample.Sampler],
) -> Callable[[Task, Counted, int], Tensor]:
    return lambda task, prior, steps: walk(make(task, AzulaPrior(prior, schedule(steps)), steps), task)


def dps(zeta: float, task: Task, prior: AzulaPrior, steps: int) -> azula.sample.Sampler:
    """The norm of a batch is one number there, so that A gives the sum of the samples' own: each walks as if alone."""
    y, A, _ = flat(task)
    total = lambda x: torch.linalg.vector_norm(y - A(x), dim=1).sum()  # noqa: E731
    return DPSSampler(prior, y.new_zeros(()), total, zeta, steps=steps, silent=True)


def pgdm(eta: float, task: Task, prior: AzulaPrior, steps: int) -> azula.sample.Sampler:
    operator, (y, A, _) = task.measurement.operator, flat(task)

    def A_inv(v: Tensor) -> Tensor:
        return operator.pinv(v.reshape(-1, *task.measurement.y.shape[1:]))

    return PGDMSampler(prior, y, A, A_inv, eta=eta, steps=steps, silent=True)


def repaint(iterations: int, task: Task, prior: AzulaPrior, steps: int) -> azula.sample.Sampler:
    seen = task.measurement.operator.singular_values(task.measurement.y) > 0
    y = 2 * task.measurement.y - 1
    return RePaintSampler(prior, y, seen, iterations, eta=1.0, steps=steps, silent=True)


def tds(task: Task, prior: AzulaPrior, steps: int) -> azula.sample.Sampler:
    """All samples are the particles of one filter; the twist is Pi-GDM's for this prior's deviation."""
    y, A, noise = flat(task)

    def twist(x: Tensor, sigma: Tensor) -> Tensor:
        variance = noise**2 + 1 / (1 / sigma**2 + 1 / (2 * DEVIATION) ** 2)
        return -(y - A(x)).square().sum(1) / (2 * variance)

    return TDSSampler(prior, twist, steps=steps, silent=True)


def mmps(solver: str, iterations: int, task: Task, prior: AzulaPrior) -> azula.denoise.Denoiser:
    y, A, noise = flat(task)
    return MMPSDenoiser(prior, y, A, lambda v: noise**2 * v, solver, iterations)


def jfps(iterations: int, task: Task, prior: AzulaPrior) -> azula.denoise.Denoiser:
    y, A, noise = flat(task)
    isotropic = azula.linalg.covariance.IsotropicCovariance
    variances = isotropic(y.new_tensor(noise**2)), isotropic(y.new_tensor((2 * DEVIATION) ** 2))
    return JFPSDenoiser(prior, y, A, *variances, iterations=iterations)


def tmpd(task: Task, prior: AzulaPrior) -> azula.denoise.Denoiser:
    y, A, noise = flat(task)
    return TMPDenoiser(prior, y, A, noise**2)


def diffpir(strength: float, iterations: int, task: Task, prior: AzulaPrior) -> azula.denoise.Denoiser:
    y, A, noise = flat(task)
    return DiffPIRDenoiser(prior, y, A, noise**2, strength, "cg", iterations)


def azula_peers() -> Iterator[Peer]:
    samplers = {
        "DDIM, eta 1": partial(azula.sample.DDIMSampler, eta=1.0),
        "DDIM": azula.sample.DDIMSampler,
        "xEAB": azula.sample.xEABSampler,
    }
    denoisers = {
        **{("MMPS", f"GMRES {n}", n + 2): partial(mmps, "gmres", n) for n in (1, 3, 8)},
        **{("MMPS", f"CG {n}", n + 2): partial(mmps, "cg", n) for n in (3, 8)},
        ("TMPD", "as is", 3): tmpd,
        **{("JFPS", f"{n} iterations", 1): partial(jfps, n) for n in (1, 3)},
        **{("DiffPIR", f"lambda {s:g}, CG {n}", 1): partial(diffpir, s, n) for s in (1.0, 10.0) for n in (2,)},
    }
    for words, schedule in (("its levels", own_levels), ("our levels", our_levels)):
        for (method, settings, cost), make in denoisers.items():
            for name, sampler in samplers.items():

                def made(task, prior, steps, make=make, sampler=sampler):
                    return sampler(make(task, prior), steps=steps, silent=True)

                yield Peer("azula", method, f"{settings}, {name}, {words}", cost, with_azula(schedule, made))
        for zeta in (0.1, 0.3, 1.0, 3.0):
            yield Peer("azula", "DPS", f"zeta {zeta:g}, {words}", 2, with_azula(schedule, partial(dps, zeta)))
        for eta in (0.0, 1.0):
            yield Peer("azula", "Pi-GDM", f"eta {eta:g}, {words}", 2, with_azula(schedule, partial(pgdm, eta)))
        for n in (1, 3, 10):
            run = with_azula(schedule, partial(repaint, n))
            yield Peer("azula", "RePaint", f"{n} times, {words}", n, run, masks=True)
        yield Peer("azula", "TDS", f"samples as particles, {words}", 2, with_azula(schedule, tds), alike=True)


# deepinv: pictures in [0, 1], whose states are in [-1, 1]


class DeepinvPrior(deepinv.models.Denoiser):
    """(x in [0, 1], sigma) to the mean of x_0; computes in the measurement's precision and gives that of x."""

    def __init__(self, prior: Counted, like: Tensor):
        super().__init__()
        self.prior, self.like = prior, like

    def forward(self, x: Tensor, sigma, *args, **kwargs) -> Tensor:
        sigma = float(torch.as_tensor(sigma).flatten()[0])
        return x if sigma == 0 else self.prior(x.to(self.like), Level(1.0, sigma, 2.0)).to(x)


def physics(task: Task) -> deepinv.physics.LinearPhysics:
    """The operator as deepinv has it, compared with ours."""
    operator, y = task.measurement.operator, task.measurement.y.float()
    shape, noise = task.measurement.image_shape, deepinv.physics.GaussianNoise(SIGMA_Y)
    if isinstance(operator, Mask):
        keep = operator.singular_values(y).float().expand(1, *shape)
        made = deepinv.physics.Inpainting(shape, mask=keep[0], noise_model=noise)
    else:
        made = deepinv.physics.BlurFFT(shape, operator.kernel.float(), noise_model=noise)
    x = torch.rand(1, *shape)
    ours = operator.to("cpu", torch.float32).forward(x)
    assert (made.A(x) - ours).abs().max() < 1e-5, "another operator"
    return made


def with_deepinv(
    make: Callable[[DeepinvPrior, int, Task], Callable[[Tensor, object], Tensor]],
) -> Callable[[Task, Counted, int], Tensor]:
    def sample(task: Task, prior: Counted, steps: int) -> Tensor:
        y = task.measurement.y.float().expand(task.count, -1, -1, -1).contiguous()
        return make(DeepinvPrior(prior, task.measurement.y), steps, task)(y, physics(task))

    return sample


def ddrm(ours: bool, eta: float, denoiser: DeepinvPrior, steps: int, task: Task) -> Callable:
    sigmas = torch.linspace(1, 0, steps + 1).tolist()
    if ours:
        sigmas = [level.sigma for level in levels(steps)]
    # the last one, sigma 0, asks no model
    return deepinv.sampling.DDRM(denoiser, sigmas, eta=eta)


def deepinv_diffpir(zeta: float, strength: float, denoiser: DeepinvPrior, steps: int, task: Task) -> Callable:
    fidelity = deepinv.optim.data_fidelity.L2()
    return deepinv.sampling.DiffPIR(denoiser, fidelity, SIGMA_Y, max_iter=steps, zeta=zeta, lambda_=strength)


def posterior(fidelity: Callable, ours: bool, eta: float, denoiser: DeepinvPrior, steps: int, task: Task) -> Callable:
    """Its `PosteriorDiffusion`, by a step of DDIM with eta (1 is DDPM)."""
    if ours:
        least = 1e-3
        sde = diffusion_sde.VarianceExplodingDiffusion(sigma_min=least, sigma_max=SIGMA_MAX)
        sigmas = torch.tensor([2 * level.sigma for level in levels(steps)[:-1]], dtype=torch.float64)
        times = torch.cat([(sigmas / least).log() / math.log(SIGMA_MAX / least), torch.zeros(1, dtype=torch.float64)])
    else:
        sde = diffusion_sde.VariancePreservingDiffusion()
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    solver = sde_solver.DDIMSolver(timesteps=times, eta=eta)
    model = diffusion_sde.PosteriorDiffusion(fidelity(), denoiser, sde, solver)
    shape = (task.count, *task.measurement.image_shape)
    return lambda y, physics: model(y, physics, x_init=shape, denoise_output=False)


def dpir(denoiser: DeepinvPrior, steps: int, task: Task) -> Callable:
    return deepinv.optim.DPIR(sigma=SIGMA_Y, denoiser=denoiser)


def deepinv_peers() -> Iterator[Peer]:
    lib = noisy_datafidelity
    for words, ours in (("its levels", False), ("our levels", True)):
        for eta in (0.85, 1.0):
            yield Peer("deepinv", "DDRM", f"eta {eta:g}, {words}", 1, with_deepinv(partial(ddrm, ours, eta)))
        fidelities = {
            **{("DPS", f"norm, weight {w:g}", 2): partial(lib.DPSDataFidelity, weight=w) for w in (1.0, 30.0, 200.0)},
            **{
                ("DPS", f"annealed, weight {w:g}", 2): partial(lib.DPSDataFidelity, weight=w, guidance="annealed")
                for w in (1.0, 3.0, 10.0)
            },
            ("Pi-GDM", "as is", 2): lib.PiGDMDataFidelity,
            **{("MMPS", f"CG {n}", n + 3): partial(lib.MomentMatchingDataFidelity, cg_max_iter=n) for n in (1, 3, 8)},
            ("Score-ALD", "as is", 1): lib.ALDDataFidelity,
            ("Score-SDE", "as is", 1): lib.ScoreSDEDataFidelity,
            ("ILVR", "as is", 1): lib.ILVRDataFidelity,
        }
        for (method, settings, cost), fidelity in fidelities.items():
            for eta in (1.0, 0.0):
                run = with_deepinv(partial(posterior, fidelity, ours, eta))
                yield Peer("deepinv", method, f"{settings}, {'DDPM' if eta else 'DDIM'}, {words}", cost, run)
    for zeta in (0.1, 0.3, 1.0):
        for strength in (1.0, 7.0):
            run = with_deepinv(partial(deepinv_diffpir, zeta, strength))
            yield Peer("deepinv", "DiffPIR", f"zeta {zeta:g}, lambda {strength:g}", 1, run)
    yield Peer("deepinv", "DPIR", "its 8 steps, one answer and no sample", 1, with_deepinv(dpir))


# All of them


def point(task: Task, peer: Peer, steps: int) -> dict:
    prior = Counted(task.denoiser)
    torch.manual_seed(1)
    start = time.process_time()
    with torch.no_grad():
        x = peer.sample(task, prior, steps)
    quality = task.quality(x.nan_to_num(1e6))
    return {
        "task": task.name, "library": peer.library, "method": peer.method,
        "settings": f"{peer.settings}, {steps} steps", "calls": prior.calls,
        "quality": quality if math.isfinite(quality) else None, "seconds": round(time.process_time() - start, 2),
    }  # fmt: skip


def suits(peer: Peer, task: Task) -> bool:
    y = task.measurement.y
    return (isinstance(task.measurement.operator, Mask) or not peer.masks) and (
        bool((y == y[:1]).all()) or not peer.alike
    )


def measured(task: Task, budgets: tuple[int, ...]) -> Iterator[dict]:
    """deepinv's and azula's points."""
    for peer in (each for each in (*azula_peers(), *deepinv_peers()) if suits(each, task)):
        for budget in budgets[:1] if peer.method == "DPIR" else budgets:
            if peer.cost <= budget:
                yield point(task, peer, budget // peer.cost)


def painted(task: Task, budgets: Sequence[int], lanpaint: LanPaint) -> Iterator[dict]:
    """LanPaint's points; also at the budgets of the table that it has for itself."""
    budgets = sorted({*budgets, *(PAINTED if BUDGETS[-1] in budgets else PAINTED[:1])})
    for settings in SETTINGS:
        iterations, length, held = settings
        words = f"{iterations} iterations of {length:g}, lambda {held:g}"
        peer = Peer("LanPaint", "LanPaint", words, 1, partial(lanpaint, settings), masks=True)
        if suits(peer, task):
            for steps in sorted({affordable(iterations, budget) for budget in budgets} - {0}):
                yield point(task, peer, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer samples, two lengths")
    parser.add_argument("--task", help="one task only")
    parser.add_argument("--lanpaint", metavar="FOLDER", help="run LanPaint, which lies there, and no library")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    budgets = BUDGETS[:2] if options.quick else BUDGETS
    own, points = points_of("frontier"), []
    lanpaint = LanPaint(options.lanpaint) if options.lanpaint else None
    for name, make in tasks(200 if options.quick else 1000).items():
        if options.task not in (None, name):
            continue
        task = make()
        found = list(painted(task, budgets, lanpaint) if lanpaint else measured(task, budgets))
        print(f"\n{name}", flush=True)
        for budget in budgets if found else ():
            mine = best((each for each in own if each["task"] == name), budget)
            print(f"  {budget} calls, ours {number(mine['quality']) if mine else '-'}", flush=True)
            within = (each for each in found if each["calls"] <= budget and each["quality"] is not None)
            for row in sorted(within, key=lambda row: row["quality"])[:6]:
                words = f"{row['library']:8s} {row['method']:8s} {row['settings']}"
                print(f"    {row['quality']:8.4f}  {row['calls']:4d} calls  {words}", flush=True)
        points += found
    print(json.dumps({"points": points}))


if __name__ == "__main__":
    main()
