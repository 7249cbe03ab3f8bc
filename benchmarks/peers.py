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

from ..algebra.streams import Streams
from ..diffusion.level import Level
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
from .frontier import DEVIATION, SIGMA_Y, Task, levels, tasks
from .guidance import Table
from .peers_lanpaint import SETTINGS, LanPaint, affordable
from .record import BUDGETS, OURS, PAINTED

#: steps: what fewer of them make is a mean, which has the least squared error and is no sample
FEWEST = 4
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
        ("MMPS", "GMRES 1", 3): partial(mmps, "gmres", 1),
        ("MMPS", "GMRES 3", 5): partial(mmps, "gmres", 3),
        ("MMPS", "CG 3", 5): partial(mmps, "cg", 3),
        ("TMPD", "as is", 3): tmpd,
        ("JFPS", "3 iterations", 1): partial(jfps, 3),
        ("DiffPIR", "lambda 10, CG 2", 1): partial(diffpir, 10.0, 2),
    }
    for words, schedule in (("its levels", own_levels), ("our levels", our_levels)):
        for (method, settings, cost), make in denoisers.items():
            for name in list(samplers)[: 2 if schedule is own_levels else 3]:

                def made(task, prior, steps, make=make, sampler=samplers[name]):
                    return sampler(make(task, prior), steps=steps, silent=True)

                yield Peer("azula", method, f"{settings}, {name}, {words}", cost, with_azula(schedule, made))
        for zeta in (1.0, 3.0):
            yield Peer("azula", "DPS", f"zeta {zeta:g}, {words}", 2, with_azula(schedule, partial(dps, zeta)))
        for eta in (0.0, 1.0):
            yield Peer("azula", "Pi-GDM", f"eta {eta:g}, {words}", 2, with_azula(schedule, partial(pgdm, eta)))
        yield Peer("azula", "RePaint", f"3 times, {words}", 3, with_azula(schedule, partial(repaint, 3)), masks=True)
    yield Peer("azula", "TDS", "samples as particles, its levels", 2, with_azula(own_levels, tds), alike=True)


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
    fidelities = {
        ("DPS", "norm, weight 30", 2): partial(lib.DPSDataFidelity, weight=30.0),
        ("DPS", "annealed, weight 3", 2): partial(lib.DPSDataFidelity, weight=3.0, guidance="annealed"),
        ("DPS", "annealed, weight 10", 2): partial(lib.DPSDataFidelity, weight=10.0, guidance="annealed"),
        ("Pi-GDM", "as is", 2): lib.PiGDMDataFidelity,
        ("MMPS", "CG 1", 4): partial(lib.MomentMatchingDataFidelity, cg_max_iter=1),
        ("MMPS", "CG 3", 6): partial(lib.MomentMatchingDataFidelity, cg_max_iter=3),
        ("Score-ALD", "as is", 1): lib.ALDDataFidelity,
        ("ILVR", "as is", 1): lib.ILVRDataFidelity,
    }
    for words, ours, etas in (("its levels", False, (1.0,)), ("our levels", True, (1.0, 0.0))):
        for eta in (0.85, 1.0):
            yield Peer("deepinv", "DDRM", f"eta {eta:g}, {words}", 1, with_deepinv(partial(ddrm, ours, eta)))
        for (method, settings, cost), fidelity in fidelities.items():
            for eta in etas:
                run = with_deepinv(partial(posterior, fidelity, ours, eta))
                yield Peer("deepinv", method, f"{settings}, {'DDPM' if eta else 'DDIM'}, {words}", cost, run)
    for zeta, strength in ((0.1, 7.0), (0.3, 7.0), (1.0, 7.0)):
        run = with_deepinv(partial(deepinv_diffpir, zeta, strength))
        yield Peer("deepinv", "DiffPIR", f"zeta {zeta:g}, lambda {strength:g}", 1, run)
    yield Peer("deepinv", "DPIR", "its 8 steps, one answer and no sample", 1, with_deepinv(dpir))


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
