"""The digits as a flow model: velocities, the ODE, what it is trained on, and the methods for flow models on it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from test_prior_digits import digits, network, noise
from torch import Tensor

from posterior.algebra.streams import Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.diffusion.schedule import Schedule
from posterior.guidance.base import Guidance
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.inpainting import Inpainting
from posterior.priors.digits import ARCHITECTURE
from posterior.priors.flow import GrayFlow, trajectory, velocity, wide
from posterior.priors.flow_digits import FEW, FlowTrainer, pairs, walks
from posterior.priors.unet import PhotoUNet, denoise
from posterior.samplers.flair import FLAIR
from posterior.samplers.flow_dps import TRIPS
from posterior.samplers.latino import LATINO

MEAN, DEVIATION = 0.3, 0.6


def wiener(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | x_0 + sigma z] of N(0.3, 0.6^2)."""
    return MEAN + DEVIATION**2 / (DEVIATION**2 + wide(sigma) ** 2) * (x - MEAN)


def test_the_velocity_of_a_gaussian():
    """E[z - x_0 | x_t] by the covariance of z - x_0 with x_t, up to pure noise, where sigma counts as 80."""
    t = torch.tensor([0.02, 0.5, 0.9, 1.0], dtype=torch.float64)
    x = noise(4, 1, 2, 2).double()
    keep, variance = 1 - t, DEVIATION**2 * (1 - t) ** 2 + t**2
    exact = -MEAN + wide((t - keep * DEVIATION**2) / variance) * (x - wide(keep * MEAN))
    error = (velocity(wiener, x, t) - exact).abs()
    assert error[:3].max() < 1e-12 and error[3].max() < 0.02


def test_the_ode_of_a_gaussian():
    """The end is the affine map of N(0, I) to the Gaussian; a quarter of the error with twice the steps."""
    z, errors = noise(3, 1, 4, 4).double(), []
    for steps in (40, 80):
        # the start is well below sigma = 80, where velocity is exact
        times = torch.linspace(0.95, 0, steps + 1, dtype=torch.float64)[:, None].expand(-1, 3)
        scale = (DEVIATION**2 * 0.05**2 + 0.95**2) ** 0.5
        states, end = trajectory(partial(velocity, wiener), 0.05 * MEAN + scale * z, times)
        errors.append((end - (MEAN + DEVIATION * z)).abs().max())
        assert states.shape == (steps, 3, 1, 4, 4)
    assert errors[0] < 1e-2 and 3 < errors[0] / errors[1] < 5


def test_lessons():
    """x_t - t v is a digit that was given, or where the walk of the teacher ends."""
    x, t, v = next(pairs(digits(4), torch.Generator().manual_seed(0)))
    found = x - wide(t) * v
    assert (found[:, None] - digits(4)[None]).abs().amax((2, 3, 4)).amin(1).max() < 1e-5
    assert 0 < t.min() and t.max() <= 1 and (x - (1 - wide(t)) * found).std() > 0.3
    teacher = network("digits_prior")
    lessons = walks(teacher, torch.Generator().manual_seed(0))
    x, t, v = (torch.cat(parts) for parts in zip(*(next(lessons) for _ in range(4)), strict=True))
    ends = x - wide(t) * v
    late = t < 0.1
    assert late.any() and (x[late] - ends[late]).abs().mean() < 0.2 and ends.amin() > -1.7 and ends.amax() < 1.7


def test_a_run_goes_on_exactly(tmp_path):
    def trainer() -> FlowTrainer:
        return FlowTrainer(0, 1e-3, 100, network=partial(PhotoUNet, (4, 6), (1, 1), colours=1))

    first, second = trainer(), trainer()
    lesson = noise(2, 1, 8, 8), torch.tensor([0.3, 0.9]), noise(2, 1, 8, 8, seed=1)
    first.update(*lesson)
    first.save(tmp_path, FEW)
    second.resume(tmp_path, FEW)
    for each in (first, second):
        each.update(*lesson)
    pairs = zip(first.model.parameters(), second.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs) and (tmp_path / FEW).exists() and second.step == 2


def gray_flow(file: str) -> GrayFlow:
    weights = {f"gray.{key}": value for key, value in network(file).state_dict().items()}
    made = GrayFlow(**GrayFlow.config_from_state_dict(weights))
    made.load_state_dict(weights)
    assert tuple(made.gray.state_dict()) == tuple(PhotoUNet(**ARCHITECTURE).state_dict())
    return made.requires_grad_(False)


def test_few_steps_begin_with_a_digit():
    """At pure noise the flow's x0_hat is the mean of all digits, and that of the form for few steps is one of them."""
    x, t, spread, ends = noise(40, 3, 32, 32), torch.ones(1), {}, {}
    for file in ("digits_prior", "digits_few"):
        ends[file] = x - gray_flow(file)(x, t)
        spread[file] = ends[file].var(0).mean().sqrt()
    assert spread["digits_few"] > 4 * spread["digits_prior"]
    ink = (digits(4) > 0).float().mean()
    assert (ends["digits_few"] > 0).float().mean() == pytest.approx(ink.item(), rel=0.4)


@pytest.mark.parametrize("sigma", [0.02, 0.5, 1.0])
def test_the_model_of_the_host(host, sigma):
    """x0_hat of the MODEL is the gray network's at the mean of the channels."""
    import comfy.samplers

    model, x = host.call("PosteriorDigitsPrior", form="flow"), noise(2, 3, 32, 32)

    def probe(denoise, _x, sigmas, extra_args=None, callback=None, disable=None):
        return denoise(x, sigmas[:1].expand(len(x)), **(extra_args or {}))

    sigmas = torch.tensor([sigma, 0.0])
    got, _ = host.sample(model, comfy.samplers.KSAMPLER(probe), sigmas, {"samples": torch.zeros_like(x)})
    keep = max(1 - sigma, 1 / 81)
    level = torch.full((2,), (1 - keep) / keep / 3**0.5)
    expected = denoise(network("digits_prior"), x.mean(1, keepdim=True) / keep, level).expand(-1, 3, -1, -1)
    assert (got - expected).abs().max() < (1e-4 if sigma < 1 else 1e-3)
    sigmas = host.call("BasicScheduler", model=model, scheduler="simple", steps=4, denoise=1.0)
    assert sigmas[0] == 1 and sigmas[-1] == 0


@pytest.mark.parametrize("sampler", [LATINO(), TRIPS, FLAIR()], ids=lambda sampler: sampler.label)
def test_half_a_digit_in_eight_calls(sampler):
    """The known half is met, and the other is nearer to the truth than an empty one."""
    net, calls = gray_flow("digits_prior"), []

    def prior(u: Tensor, t: Level) -> Tensor:
        calls.append(1)
        x, time = 2 * u - t.alpha, u.new_tensor([t.flow_time])
        return (x - time * net(x, time) + 1) / 2

    clean = ((digits() + 1) / 2).expand(-1, 3, -1, -1)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 16:] = 1
    measurement, hidden = Measurement.simulate(Inpainting(mask), clean, GaussianNoise(0.01), 0), mask.bool()
    levels = [Level(k / 8, (1 - k / 8) / 2, 2.0) for k in range(9)]
    run = Run(prior, levels, [Guidance(measurement)], Streams(0, "sampling", 10), schedule=Schedule("flow"))
    x = sampler(run, run.draw.normal(clean) / 2)
    assert len(calls) == 8
    assert (x - clean).masked_select(~hidden).square().mean().sqrt() < 0.03
    assert (x - clean).masked_select(hidden).square().mean() < 0.9 * clean.masked_select(hidden).square().mean()
