"""The same methods elsewhere: whole runs of deepinv and azula, on variance-preserving states of pictures in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import azula.denoise
import azula.guidance
import azula.noise
import azula.sample
import deepinv
import torch
from azula.guidance.diffpir import DiffPIRDenoiser
from azula.guidance.dps import DPSSampler
from azula.guidance.mmps import MMPSDenoiser
from torch import Tensor, nn

from ..diffusion.level import Level
from ..diffusion.run import Run
from ..guidance.base import Guidance
from ..guidance.diffpir import DiffPIR
from ..guidance.dps import DPS
from ..guidance.mmps import MMPS
from ..measurement.measurement import Measurement
from ..measurement.noise import GaussianNoise
from ..priors.unet import denoise
from ..samplers.ddim import GuidedDDIM
from .side_by_side import SIGMA_Y, in_words, photo_measurement, photo_network, ratio_of_times


class Table(azula.noise.Schedule):
    """A noise schedule given by its levels, first to last, at t = 1 down to 0."""

    def __init__(self, levels: list[Level]):
        self.alpha = torch.tensor([level.alpha for level in levels])
        self.sigma = torch.tensor([level.sigma for level in levels])

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        i = ((1 - t) * (len(self.alpha) - 1)).round().long()
        return self.alpha[i], self.sigma[i]


class AzulaPrior(azula.denoise.Denoiser):
    def __init__(self, prior: Callable[[Tensor, Level], Tensor], levels: list[Level]):
        super().__init__()
        self.prior, self.schedule = prior, Table(levels)

    def forward(self, x_t: Tensor, t: Tensor, **kwargs) -> azula.denoise.DiracPosterior:
        alpha, sigma = self.schedule(t)
        return azula.denoise.DiracPosterior(self.prior(x_t, Level(alpha.item(), sigma.item())))


class DeepinvPrior(deepinv.models.Denoiser):
    """(x in [0, 1], sigma) to x_0, as deepinv calls its denoisers."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sigma, *args, **kwargs) -> Tensor:
        level = torch.as_tensor(sigma).float().flatten()[:1].expand(len(x))
        return (denoise(self.network, 2 * x.float() - 1, 2 * level) + 1) / 2


def peers(size: int, steps: int, repeats: int) -> list[dict]:
    network, native = photo_network(), photo_measurement(size)
    keep = native.operator.keep
    y, sigma = keep * (2 * native.y - 1), 2 * SIGMA_Y  # the same measurement in [-1, 1]
    measurement = Measurement(native.operator, y, GaussianNoise(sigma))
    exploding = [*torch.logspace(1, -2, steps).tolist(), 0.0]
    levels = [Level((1 + value**2) ** -0.5, value * (1 + value**2) ** -0.5) for value in exploding]
    start = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2))
    flat = {"y": y.flatten(1), "A": lambda x: (keep * x).flatten(1)}
    settings = {"steps": steps, "silent": True}

    def prior(x: Tensor, level: Level) -> Tensor:
        return denoise(network, x / level.alpha, x.new_full((1,), level.sigma / level.alpha))

    def ours(block: Guidance, amount: float = 0.0, rule: str = "eta") -> Callable[[], Tensor]:
        def job() -> Tensor:
            torch.manual_seed(0)
            draw = SimpleNamespace(normal=torch.randn_like)  # the stream that the others draw from
            with torch.no_grad():
                return GuidedDDIM(amount, rule)(Run(prior, levels, [block], draw), start)

        return job

    def theirs(sampler: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        def job() -> Tensor:
            torch.manual_seed(0)
            return sampler(start)

        return job

    plain = AzulaPrior(prior, levels)
    # our DPS takes pictures for [0, 1] and doubles zeta for the paper's [-1, 1]; these are in [-1, 1] already
    dps = DPSSampler(plain, **flat, zeta=1.0, **settings)
    covariance = {"cov_y": lambda v: sigma**2 * v}
    mmps = MMPSDenoiser(plain, **flat, **covariance, iterations=2)
    diffpir = DiffPIRDenoiser(plain, **flat, var_y=sigma**2, lmbda=1.0, solver="cg", iterations=2)
    physics = deepinv.physics.Inpainting(
        (3, size, size), mask=keep.expand(1, 3, -1, -1)[0], noise_model=deepinv.physics.GaussianNoise(SIGMA_Y)
    )
    deep = DeepinvPrior(network)
    deep_dps = deepinv.sampling.DPS(deep, num_steps=steps + 1, dtype=torch.float32)
    deep_diffpir = deepinv.sampling.DiffPIR(
        deep, deepinv.optim.data_fidelity.L2(), sigma=SIGMA_Y, max_iter=steps, zeta=0.3, lambda_=1.0
    )
    ddim = partial(azula.sample.DDIMSampler, eta=0.0, **settings)
    our_dps, our_diffpir = ours(DPS(measurement, 0.5), 1.0), ours(DiffPIR(measurement), 0.3, "zeta")
    pairs = [
        ("azula", "DPS", theirs(dps), our_dps, True),
        ("azula", "MMPS", theirs(ddim(mmps)), ours(MMPS(measurement, 2)), True),
        ("azula", "DiffPIR", theirs(ddim(diffpir)), ours(DiffPIR(measurement)), True),
        ("deepinv", "DPS", lambda: deep_dps(native.y, physics, x_init=None), our_dps, False),
        ("deepinv", "DiffPIR", lambda: deep_diffpir(native.y, physics), our_diffpir, False),
    ]
    rows = []
    for peer, method, their, our, same in pairs:
        a, b = our(), their()
        difference = (a - b).abs().max().item() if same else None
        ratio, spread = ratio_of_times(our, their, repeats)
        rows.append({"peer": peer, "method": method, "time_ratio": ratio, "time_spread": spread})
        rows[-1]["max_abs_diff"] = difference
        text = f"{difference:.1e}" if same else "another recipe"
        print(f"{peer:8s} {method:8s} our time / theirs {in_words(ratio, spread)}  difference {text}", flush=True)
    return rows
