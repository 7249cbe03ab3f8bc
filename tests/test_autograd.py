"""Vector-Jacobian products: every size of v, in every precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import posterior
from posterior.algebra.autograd import magnitude, pulled_back, traced
from posterior.diffusion.level import Level
from posterior.diffusion.state import predict
from posterior.priors.unet import PhotoUNet, preconditioning


def photo_prior(dtype: torch.dtype):
    """The photo prior wrapped as the host wraps EPS models: x0 = x - sigma eps, with eps in `dtype`."""
    path = Path(posterior.__file__).parent / "priors" / "photo_prior.safetensors"
    network = PhotoUNet().to(dtype)
    network.load_state_dict({key.removeprefix("photo_prior."): value for key, value in load_file(path).items()})
    network.requires_grad_(False).to(dtype)

    def denoiser(x: Tensor, t: Level) -> Tensor:
        c_skip, c_out, c_in, c_noise = preconditioning(x.new_full((len(x),), t.sigma))
        raw = network((c_in * x).to(dtype), c_noise.to(dtype)).to(x.dtype)
        return x - t.sigma * ((x - c_skip * x - c_out * raw) / t.sigma).to(dtype).to(x.dtype)

    return denoiser


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e5])
def test_a_half_precision_network_takes_any_v(size):
    """Case B8. DPS hands over r / sigma_y^2, 1e5 at 0.003; the largest number of fp16 is 65504, its smallest 6e-8.

    What the network rounds is 3 % of J^T v for a v of any size; a v that fp16 does not hold would give 0, inf or NaN.
    """
    generator = torch.Generator().manual_seed(0)
    x, v = (torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=generator) for _ in range(2))
    v *= size * torch.tensor([1.0, 1e-7], dtype=torch.float64).view(2, 1, 1, 1)  # each sample has its own size
    exact = predict(photo_prior(torch.float64), x, Level(1.0, 1.0), jacobian=True).vjp(v)
    half = predict(photo_prior(torch.float16), x.float(), Level(1.0, 1.0), jacobian=True).vjp(v.float())
    error = (half - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    assert error.max() < 0.06


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scaling_v_changes_no_digit(dtype):
    generator = torch.Generator().manual_seed(0)
    x, v = (torch.randn(3, 5, dtype=dtype, generator=generator) for _ in range(2))
    leaf, value = traced(lambda x: x.sin() * 3, x)
    (plain,) = torch.autograd.grad(value, leaf, v, retain_graph=True)
    for factor in (1.0, 2.0**40, 2.0**-40):
        for apart in (False, True):
            assert torch.equal(pulled_back(value, leaf, factor * v, keep=True, apart=apart), factor * plain)
    assert not pulled_back(value, leaf, 0 * v).any()
    leaf, value = traced(lambda x: x.square().sum(), x)  # a number
    assert torch.equal(pulled_back(value, leaf, torch.ones_like(value)), 2 * x)


def test_magnitude_is_the_power_of_two_below():
    rows = torch.tensor([[3.0, -5.0], [1.0, 0.5], [0.3, 0.0], [-1e-30, 0.0]])
    assert magnitude(rows).tolist() == [4.0, 1.0, 0.25, 2.0**-100]
    assert torch.isfinite(1 / magnitude(torch.zeros(2, 2))).all()
