"""The methods of azula for `bench peers`: states of pictures in [-1, 1], x_t = alpha x + sigma z."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import azula.denoise
import azula.linalg.covariance
import azula.noise
import azula.sample
import torch
from azula.guidance.diffpir import DiffPIRDenoiser
from azula.guidance.dps import DPSSampler
from azula.guidance.jfps import JFPSDenoiser
from azula.guidance.mmps import MMPSDenoiser
from azula.guidance.pgdm import PGDMSampler
from azula.guidance.repaint import RePaintSampler
from azula.guidance.tds import TDSSampler
from azula.guidance.tmpd import TMPDenoiser
from torch import Tensor

from ..diffusion.level import Level
from .counted import Counted
from .frontier import DEVIATION, SIGMA_Y, Task, levels
from .guidance_peers import Table
from .peer import SIGMA_MAX, Peer


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
