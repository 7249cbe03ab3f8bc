"""Noise levels for the damage (SAS): what the operator loses, and the quantiles of the density."""

from __future__ import annotations

import pytest
import torch
from patch_codec import F64
from scipy.integrate import quad

from posterior.algebra.refusal import Refusal
from posterior.diffusion.operator_times import lost, times
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.convolution import convolution
from posterior.operators.downscale import downscale
from posterior.operators.inpainting import Inpainting
from posterior.operators.jpeg import JPEG
from posterior.operators.kernels import gaussian
from posterior.operators.varying_blur import VaryingBlur
from posterior.priors.gaussian import dense_matrix


@pytest.mark.parametrize("kind", ["upscaling", "mask", "blur", "varying"])
def test_what_is_lost(kind: str):
    """Missing and weakened directions against the singular values of the matrix."""
    hole = torch.zeros(1, 1, 16, 16, dtype=F64)
    hole[..., 4:, :] = 1
    operator = {
        "upscaling": downscale(4, "box"), "mask": Inpainting(hole),
        "blur": convolution(gaussian(1.5).double(), "reflect"),
        "varying": VaryingBlur(gaussian(1.0).double().expand(2, -1, -1, -1), 2),
    }[kind]  # fmt: skip
    measurement = Measurement.simulate(operator, torch.rand(1, 3, 16, 16, dtype=F64), GaussianNoise(0.1), 0)
    s = torch.linalg.svdvals(dense_matrix(operator, (3, 16, 16), torch.zeros((), dtype=F64)))
    bars = torch.cat([s, s.new_zeros(768 - len(s))]) / s[0]
    rank = (bars > 1e-12).sum() / 768 if kind != "varying" else torch.ones(())
    miss, weak = lost(measurement)
    assert miss == pytest.approx(1 - rank.item(), abs=0.03 if kind == "upscaling" else 1e-9)
    assert weak == pytest.approx((rank - bars.square().mean()).item(), abs=1e-9 if kind == "mask" else 0.06)


@pytest.mark.parametrize("miss, weak", [(0.0, 0.0), (0.9375, 0.0), (0.0, 0.9), (0.3, 0.4)])
def test_times_are_quantiles_of_the_density(miss: float, weak: float):
    found = times(miss, weak, 9, 0.8, 0.1, 2.0)

    def density(u: float) -> float:
        return 1 + 2 * (miss * u**2 + weak * (1 - u) ** 2) / (u**2 + (1 - u) ** 2)

    total = quad(density, 0.1, 0.8)[0]
    shares = [quad(density, 0.1, u)[0] / total for u in found]
    assert shares == pytest.approx([1 - j / 10 for j in range(1, 10)], abs=1e-5)


def test_jpeg_has_no_singular_values():
    measurement = Measurement.simulate(JPEG(30), torch.rand(1, 3, 16, 16), GaussianNoise(0.1), 0)
    with pytest.raises(Refusal, match="scheduler"):
        lost(measurement)
