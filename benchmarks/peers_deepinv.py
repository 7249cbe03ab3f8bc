"""The methods of deepinv for `bench peers`: pictures in [0, 1], whose states are in [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import deepinv
import torch
from deepinv.sampling import diffusion_sde, noisy_datafidelity, sde_solver
from torch import Tensor

from ..diffusion.level import Level
from ..operators.diagonal import Mask
from .counted import Counted
from .frontier import SIGMA_Y, Task, levels
from .peer import SIGMA_MAX, Peer


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
