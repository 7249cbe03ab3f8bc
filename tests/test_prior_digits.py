"""The digits priors and their loss: what they were trained for, on digits that they have not seen."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from posterior.algebra.streams import Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.guidance.base import Guidance
from posterior.guidance.mmps import MMPS
from posterior.guidance.pigdm import PiGDM
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.inpainting import Inpainting
from posterior.operators.pointwise import Gamma
from posterior.priors.digits import ARCHITECTURE
from posterior.priors.given import OPERATORS, same_operator, telling
from posterior.priors.gray import GrayAsColour
from posterior.priors.train import Trainer, dsm_loss, held_out_crops
from posterior.priors.unet import SIGMA_DATA, PhotoUNet, denoise
from posterior.samplers.daps import DAPS
from posterior.samplers.ddim import GuidedDDIM
from posterior.samplers.split_gibbs import SplitGibbs

ROOT = Path(__file__).parent.parent


def digits(rows: int = 1) -> Tensor:
    """Held-out digits 0 to 9, `10 rows 1 32 32` in [-1, 1]."""
    with Image.open(ROOT / "photos" / "digits.png") as image:
        grid = torch.from_numpy(np.array(image.convert("L"), dtype=np.float32)) / 127.5 - 1
    return grid.reshape(4, 32, 10, 32).transpose(1, 2).reshape(40, 1, 32, 32)[: 10 * rows]


def network(name: str) -> PhotoUNet:
    weights = {key: value.float() for key, value in load_file(ROOT / "priors" / f"{name}.safetensors").items()}
    found = PhotoUNet(**PhotoUNet.config_from_state_dict(weights))
    found.load_state_dict(weights)
    return found.requires_grad_(False)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_loss_is_weighted_denoising():
    """The regression of F is lambda(sigma) norm(D(x_t, y) - x_0)^2 with lambda = 1 / c_out^2, also with a given y."""
    torch.manual_seed(0)
    model = PhotoUNet((4, 6), (1, 1), colours=1, given=1)
    x0, y, z, sigma = digits()[:3], noise(3, 1, 32, 32, seed=1), noise(3, 1, 32, 32), torch.tensor([0.05, 0.5, 7.0])
    with torch.no_grad():
        wide = sigma.reshape(-1, 1, 1, 1)
        error = denoise(model, x0 + wide * z, sigma, y) - x0
        weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
        expected = weight * error.square().mean((1, 2, 3))
        assert torch.allclose(dsm_loss(model, x0, sigma, z, y), expected, rtol=1e-4)


def test_given_measurement_helps():
    """h(x_t, y) is nearer to the truth than D(x_t) at every noise level at which x_t leaves something open."""
    prior, told, x0 = network("digits_prior"), network("digits_x4"), digits(4)
    small = torch.nn.functional.avg_pool2d(x0, 4) + 0.1 * noise(40, 1, 8, 8)
    y = torch.nn.functional.interpolate(small, scale_factor=4.0)
    for sigma in (0.5, 2.0, 20.0):
        x_t, level = x0 + sigma * noise(40, 1, 32, 32, seed=1), torch.full((40,), sigma)
        with_y = (denoise(told, x_t, level, y) - x0).square().mean()
        without = (denoise(prior, x_t, level) - x0).square().mean()
        assert with_y < (0.95 if sigma < 1 else 0.6) * without


def test_a_supervised_network_starts_as_the_prior():
    """What it is told counts nothing at first; one update later it does."""
    trainer = Trainer(0, 1e-3, 100, warm_up=1, network=partial(PhotoUNet, **ARCHITECTURE, given=1))
    trainer.start_from(load_file(ROOT / "priors" / "digits_prior.safetensors"))
    told, x0 = telling("super_resolution_x4_box", 0.05), digits()
    y = told(x0, torch.Generator().manual_seed(0))
    x, sigma = x0 + noise(10, 1, 32, 32), torch.ones(10)
    with torch.no_grad():
        prior = denoise(network("digits_prior"), x, sigma)
        assert torch.allclose(denoise(trainer.ema, x, sigma, y), prior, atol=1e-5)
        assert torch.equal(denoise(trainer.ema, x, sigma, y), denoise(trainer.ema, x, sigma, 0 * y))
    trainer.update(x0, y)
    with torch.no_grad():
        assert not torch.equal(denoise(trainer.ema, x, sigma, y), denoise(trainer.ema, x, sigma, 0 * y))


@pytest.mark.parametrize("name", OPERATORS)
def test_what_a_supervised_network_is_told(name):
    """A picture of the size of x_0 that carries the whole measurement: A of it is y."""
    x0, operator = held_out_crops(32)[:2], OPERATORS[name]()
    told = telling(name, 0.0)(x0, torch.Generator())
    assert told.shape == x0.shape
    y = operator((x0 + 1) / 2)
    if y.shape == x0.shape:
        assert torch.allclose((told + 1) / 2, y, atol=1e-6)
    else:
        assert torch.allclose(operator((told + 1) / 2), y, atol=1e-5)
    assert same_operator(name, OPERATORS[name](), (3, 32, 32))
    assert not same_operator(name, Gamma(2.0), (3, 32, 32)) and not same_operator(name, Gamma(2.0), (3, 30, 31))
    noisy = telling(name, 0.1)(x0, torch.Generator().manual_seed(0)) - told
    assert 0.05 < noisy.std() < 0.5 and abs(noisy.mean()) < 0.05


def half_a_digit(method, sampler, steps: int, every: int = 1) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The digits, what is hidden of them, and two draws. every: of the levels, how many to go at once."""
    weights = {f"gray.{key}": value for key, value in network("digits_prior").state_dict().items()}
    net = GrayAsColour(**GrayAsColour.config_from_state_dict(weights))
    net.load_state_dict(weights)
    net.requires_grad_(False)

    def prior(u: Tensor, t: Level) -> Tensor:
        return (net(2 * u - 1, u.new_tensor([2 * t.sigma]).log() / 4) + 1) / 2

    clean = ((digits() + 1) / 2).expand(-1, 3, -1, -1)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 16:] = 1
    measurement = Measurement.simulate(Inpainting(mask), clean, GaussianNoise(0.01), 0)
    sigmas = (torch.linspace(20.0 ** (1 / 7), 0.03 ** (1 / 7), steps) ** 7).tolist()[::every]
    levels = [*(Level(1.0, sigma / 2, 2.0) for sigma in sigmas), Level(1.0, 0.0, 2.0)]
    draws = []
    for seed in (0, 1):
        run = Run(prior, levels, [method(measurement)], Streams(seed, "sampling", 10))
        draws.append(sampler(run, 0.5 + levels[0].sigma * run.draw.normal(clean)))
    return clean, mask.bool().expand_as(clean), draws


@pytest.mark.parametrize(
    "method, sampler, steps, share",
    [(PiGDM, GuidedDDIM(1.0), 20, 0.6), (Guidance, DAPS(2), 40, 0.85), (Guidance, SplitGibbs(3, 0), 25, 0.85)],
    ids=["Pi-GDM", "DAPS", "PnP-DM"],
)
def test_half_a_digit_is_filled(method, sampler, steps, share):
    """Samples agree with the known half, differ in the other, and are nearer to the truth than an empty half."""
    clean, hidden, draws = half_a_digit(method, sampler, steps)
    for x in draws:
        assert (x - clean)[~hidden].square().mean().sqrt() < 0.02
        assert (x - clean)[hidden].square().mean() < share * clean[hidden].square().mean()
    assert (draws[0] - draws[1])[hidden].square().mean().sqrt() > 0.02


def test_moment_matching_does_not_run_away():
    """On a Jacobian that is not quite symmetric: six steps of eight products once ran away to 10^6."""
    clean, hidden, draws = half_a_digit(lambda measurement: MMPS(measurement, 8), GuidedDDIM(1.0), 20, 4)
    for x in draws:
        assert (x - clean)[hidden].square().mean() < 0.8 * clean[hidden].square().mean()
