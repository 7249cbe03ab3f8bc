"""What Auto takes for samples and restorations of linear damage, and what it costs."""

from __future__ import annotations

import pytest
import torch
from guidance_rows import F64, one_thread  # noqa: F401
from guided_host import SIZE, dynamic_patcher, gaussian_model, measured
from torch import Tensor

from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.diffusion.state import predict
from posterior.guidance.pigdm import PiGDM
from posterior.guidance.reach import LEAST, ReachingPiGDM
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.convolution import CircularConvolution
from posterior.operators.inpainting import Inpainting
from posterior.operators.kernels import gaussian
from posterior.priors.gaussian import Gaussian
from posterior.samplers.auto import for_pictures
from posterior.samplers.ddim import GuidedDDIM
from posterior.samplers.dpm import DPMSolver

ONCE, TWICE, SECOND = GuidedDDIM(1.0), GuidedDDIM(1.0, repeats=2, jump=1), DPMSolver(stochastic=True)
REACHING = "Pi-GDM where it reaches"
#: what is hidden, whether there is a gradient, calls: blocks, sampler, steps
RULES = [
    ("half", True, 30, ["DDNM", REACHING], ONCE, 20), ("half", False, 30, ["DiffPIR", "DDNM"], TWICE, 15),
    ("half", True, 12, ["DDNM"], ONCE, 12), ("hole", True, 40, ["MMPS"], SECOND, 8),
    ("hole", False, 30, ["DDNM"], SECOND, 30), ("hole", True, 39, ["DDNM"], SECOND, 39),
    ("dots", True, 39, ["DDNM"], SECOND, 39), ("dots", True, 40, ["MMPS"], SECOND, 8),
    ("blur", True, 40, ["DDNM"], SECOND, 40),
]  # fmt: skip


def of(hidden: str, sigma: float = 0.0) -> Measurement:
    mask = torch.zeros(1, 1, 16, 16)
    if hidden == "half":
        mask[..., 5:] = 1
    elif hidden == "hole":
        mask[..., 5:11, 5:11] = 1
    else:
        mask[..., ::2, ::3] = 1
    operator = CircularConvolution(gaussian(1.0)) if hidden == "blur" else Inpainting(mask)
    return Measurement.simulate(operator, torch.rand(1, 3, 16, 16), GaussianNoise(sigma), 0)


@pytest.mark.parametrize("hidden, gradient, calls, labels, sampler, steps", RULES)
def test_the_choice_by_what_is_gone(hidden, gradient, calls, labels, sampler, steps):
    """Samples take no more model calls than were given, a backward pass is one, and meet what was seen."""
    measurement, made = of(hidden), 0
    chosen, walk, number = for_pictures(measurement, calls, gradient=gradient)
    assert [block.label for block in chosen.blocks] == labels and (walk, number) == (sampler, steps)
    assert calls <= 12 or "next best" in chosen.report

    def prior(x: Tensor, t: Level) -> Tensor:
        nonlocal made
        made += 1 + x.requires_grad
        return x / (1 + 4 * t.sigma**2)

    levels = [*(Level(1.0, sigma, 2.0) for sigma in torch.logspace(1, -2, number).tolist()), Level(1.0, 0.0, 2.0)]
    x = walk(Run(prior, levels, chosen.blocks), 10 * torch.randn(1, 3, 16, 16))
    made += 3 * number if labels == ["MMPS"] else 0  # four products to one forward pass
    assert 0.85 * calls <= made <= calls and measurement.residual_rms(x).max() < 0.02


@pytest.mark.parametrize("hidden, other", [("half", "DDNM"), ("hole", "DDNM"), ("blur", "DiffPIR, trust 0.5")])
def test_restorations_take_no_gradient(hidden: str, other: str):
    chosen, _, number = for_pictures(of(hidden, 0.05), 30, restore=True, gradient=True)
    assert [block.label for block in chosen.blocks] == ["DiffPIR"] and number == 30
    assert chosen.report.endswith(f"next best: {other}")


@pytest.mark.parametrize("correlation", [0.5, 1.2, 2.0, 4.0, 8.0])
def test_pi_gdm_is_followed_as_far_as_it_reaches(correlation: float):
    """The reach by dense algebra, of each sample: d = V A^T (r^2 A A^T + sigma_y^2 I)^-1 (y - A m)."""
    line = torch.arange(10, dtype=F64)
    place = torch.cartesian_prod(line, line)
    prior = Gaussian.from_covariance(
        torch.full((1, 10, 10), 0.5, dtype=F64), 0.06 * (-torch.cdist(place, place) / correlation).exp()
    )
    mask = torch.zeros(1, 1, 10, 10, dtype=F64)
    mask[..., 5:, :] = 1
    measurement = Measurement.simulate(Inpainting(mask), prior.sample(6, 3), GaussianNoise(0.1), 4)
    block, t = ReachingPiGDM(measurement, 0.5), Level(1.0, 1.0, 2.0)
    x = 0.5 + torch.randn(6, 1, 10, 10, dtype=F64, generator=torch.Generator().manual_seed(5))
    state = predict(prior.denoiser, x, t, True)
    answer = block.estimate(state, before := torch.rand_like(x)).x0
    own = PiGDM(measurement, 0.5, limit=block.limit).estimate(state, state.x0).x0
    covariance = torch.linalg.inv(torch.linalg.inv(prior.covariance()) + torch.eye(100, dtype=F64))
    white, seen, deep = 1 / (1 + (2 / 0.5) ** 2), slice(0, 50), slice(60, 100)
    for k in range(6):
        residual = (measurement.y - state.x0)[k].flatten()[seen]
        d = covariance[:, seen] @ residual / (white + 0.1**2)
        reach = d[deep].square().mean().sqrt() / d[seen].square().mean().sqrt()
        assert abs(reach / LEAST - 1) > 0.01  # or else this says nothing
        assert torch.allclose(answer[k], own[k] if reach > LEAST else before[k])


def test_the_gradient_is_taken_where_it_is_certain(host):
    """Of the host's own layers, and if it fits the memory; the report says what was taken."""
    from posterior.host import solve

    model, measurement = gaussian_model(host), measured()
    assert solve.has_gradient(model, measurement, 1.0)
    path = solve.choose(model, measurement, 20, False)
    assert "Pi-GDM in the first half" in path.words and len(path.sigmas) == 14
    assert len(solve.choose(model, measurement, 20, False, effort="best").sigmas) == 27
    pictures = path.run(model, 2, *([[torch.zeros(1, 1, 8), {}]],) * 2, 1.0, 0)
    assert pictures.shape == (2, 3, SIZE, SIZE) and measurement.residual(pictures).abs().max() < 1e-5
    moving = model.clone()
    moving.__class__ = dynamic_patcher()
    assert not solve.has_gradient(moving, measurement, 1.0)
    foreign = type("Foreign", (torch.nn.Module,), {"__module__": "custom_nodes.other"})
    model.model.diffusion_model.add_module("foreign", foreign())
    assert "each step twice" in solve.choose(model, measurement, 20, False).words
