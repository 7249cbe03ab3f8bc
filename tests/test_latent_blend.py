"""Measured pixels put back without a seam."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from posterior.algebra.refusal import Refusal
from posterior.measurement.blend import keep_measured
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.measurement.smooth import harmonic
from posterior.operators.convolution import convolution
from posterior.operators.crop import Crop
from posterior.operators.inpainting import Inpainting, Mosaic, RandomPixels
from posterior.operators.kernels import gaussian
from posterior.photos import load_photo

F64 = torch.float64


def photo(size: int = 64) -> Tensor:
    return load_photo("chelsea", size).movedim(-1, 1)


def hole(size: int = 64) -> Tensor:
    """A blob that touches one border."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (((x - size * 0.8) ** 2 + (y - size / 2) ** 2) < (size * 0.3) ** 2).float()[None, None]


OPERATORS = {
    "mask": lambda: Inpainting(hole()),
    "lost pixels": lambda: RandomPixels(0.5, 1),
    "outpainting": lambda: Crop(8, 0, 5, 3),
    "mosaic": lambda: Mosaic("RGGB"),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_known_pixels_are_the_user_s_bit_for_bit(name):
    operator = OPERATORS[name]()
    measurement = Measurement.simulate(operator, photo(), GaussianNoise(0.02), 0)
    generated = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    kept = keep_measured(measurement, generated)
    assert kept.shape == generated.shape
    for each in kept:
        assert torch.equal(operator.forward(each[None]), measurement.y)


@pytest.mark.parametrize("name", ["mask", "outpainting"])
def test_a_shift_of_colour_is_undone(name):
    """The truth with another brightness has the truth's gradients: it comes back, to the last pixel of the hole."""
    truth = photo().to(F64)
    measurement = Measurement.simulate(OPERATORS[name](), truth, GaussianNoise(0.0), 0)
    shift = torch.tensor([0.1, -0.05, 0.2], dtype=F64)[:, None, None]
    assert (keep_measured(measurement, truth + shift) - truth).abs().max() < 1e-6


def test_the_correction_is_that_of_a_dense_solve():
    """Sum over neighbours of (c_i - c_j) = 0 at each unknown pixel, written down pixel by pixel."""
    size, generator = 11, torch.Generator().manual_seed(0)
    keep = torch.rand(size, size, generator=generator) < 0.4
    values = torch.randn(size, size, dtype=F64, generator=generator)
    matrix, right = torch.eye(size * size, dtype=F64), (values * keep).flatten()
    for i in range(size):
        for j in range(size):
            if not keep[i, j]:
                near = [(i + a, j + b) for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))]
                near = [(a, b) for a, b in near if 0 <= a < size and 0 <= b < size]
                matrix[i * size + j] = 0
                matrix[i * size + j, i * size + j] = len(near)
                for a, b in near:
                    matrix[i * size + j, a * size + b] = -1
    expected = torch.linalg.solve(matrix, right).reshape(size, size)
    got = harmonic(values[None, None], keep[None, None])[0, 0]
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


def test_there_is_no_seam():
    """Across the rim the picture changes no more than it does in the generated one; pasting alone leaves an edge."""
    truth, mask = photo(), hole()
    measurement = Measurement.simulate(Inpainting(mask), truth, GaussianNoise(0.0), 0)
    wave = 0.15 + 0.1 * torch.sin(torch.arange(64) / 9.0)
    generated = truth.roll(5, -2) * 0.2 + truth * 0.8 + wave
    keep = mask == 0
    rim = (keep[..., 1:] != keep[..., :-1]).expand(1, 3, -1, -1)

    def edge(picture: Tensor) -> float:
        return (picture.diff(dim=-1) - truth.diff(dim=-1))[rim].square().mean().sqrt().item()

    pasted = torch.where(keep, truth, generated)
    assert edge(keep_measured(measurement, generated)) < 0.5 * edge(pasted)
    inside = (~keep).expand(1, 3, -1, -1)[..., 1:] & ~rim
    change = (keep_measured(measurement, generated) - generated).diff(dim=-1)[inside].square().mean().sqrt()
    assert change < 0.02  # the model's texture is left alone


def test_pictures_that_a_model_made_larger_are_cut_to_the_measured_size():
    truth = photo()[..., :61, :50]
    measurement = Measurement.simulate(Inpainting(hole()[..., :61, :50]), truth, GaussianNoise(0.0), 0)
    assert keep_measured(measurement, photo()[..., :64, :56]).shape == (1, 3, 61, 50)


class Kernels(TorchDispatchMode):
    """Counts operations on tensors."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_a_large_hole_is_quick():
    mask = torch.zeros(1, 1, 512, 512)
    mask[..., 20:490, 30:500] = 1
    truth = torch.linspace(0, 1, 512).expand(1, 3, 512, 512)
    measurement = Measurement.simulate(Inpainting(mask), truth, GaussianNoise(0.0), 0)
    with Kernels() as kernels:
        kept = keep_measured(measurement, 0.5 * truth)
    assert (kept - truth).abs().max() < 2e-3  # a ramp has no Laplacian
    assert kernels.count < 4000  # takes 1,860; the last iterations depend on rounding


def test_refusals():
    blurred = Measurement.simulate(convolution(gaussian(1.5)), photo(), GaussianNoise(0.0), 0)
    with pytest.raises(Refusal, match="no pixels that could be kept"):
        keep_measured(blurred, photo())
    measurement = Measurement.simulate(Inpainting(hole()), photo(), GaussianNoise(0.0), 0)
    with pytest.raises(Refusal, match="32 x 32 and the measurement speaks of 64 x 64"):
        keep_measured(measurement, photo(32))
