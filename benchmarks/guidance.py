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
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
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
from safetensors.torch import load_file
from torch import Tensor, nn
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
from ..measurement.noise import GaussianNoise
from ..operators.inpainting import Inpainting
from ..photos import load_photo
from ..priors.unet import PhotoUNet, denoise
from ..samplers.ddim import GuidedDDIM

SIGMA_Y = 0.05
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


def photo_network() -> PhotoUNet:
    file = Path(__file__).parent.parent / "priors" / "photo_prior.safetensors"
    weights = {key: value.float() for key, value in load_file(file).items()}
    network = PhotoUNet(**PhotoUNet.config_from_state_dict(weights)).eval().requires_grad_(False)
    network.load_state_dict(weights)
    return network


def photo_measurement(size: int) -> Measurement:
    """A photo of which a random half of the pixels is lost, with noise."""
    picture = load_photo("chelsea", size).movedim(-1, 1)
    lost = (torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    return Measurement.simulate(Inpainting(lost), picture, GaussianNoise(SIGMA_Y), 0)


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


def ratio_of_times(ours: Callable[[], object], other: Callable[[], object], repeats: int) -> tuple[float, list[float]]:
    """Median, and least and most, of our time over the other's; the two take turns, and turns at being first."""
    ratios = []
    for k in range(repeats):
        jobs = (other, ours) if k % 2 else (ours, other)
        taken = {job: seconds(job) for job in jobs}
        ratios.append(taken[ours] / taken[other])
    return statistics.median(ratios), [min(ratios), max(ratios)]


def in_words(ratio: float, spread: list[float]) -> str:
    return f"{ratio:5.2f} ({spread[0]:.2f} to {spread[1]:.2f})"


def seconds(job: Callable[[], object]) -> float:
    """Of this process, so that a busy machine does not count."""
    start = time.process_time()
    job()
    return time.process_time() - start


# Peers, on variance-preserving states of pictures in [-1, 1]


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
