"""Unknown parameters: derivatives against finite differences, kernels and borders against those of the nodes."""

from __future__ import annotations

import pytest
import torch

from posterior.operators import kernels
from posterior.operators.compose import compose
from posterior.operators.families import (
    DiskRadius,
    Exposure,
    Family,
    FreeKernel,
    GammaCurve,
    GaussianWidth,
    Motion,
    Spread,
)
from posterior.operators.identity import Scale
from posterior.operators.levels import Levels

F64 = torch.float64
FAMILIES = [
    GaussianWidth(13), GaussianWidth(13, "circular"), DiskRadius(9), Motion(11), FreeKernel(5),
    FreeKernel(5, "circular"), Exposure(), Exposure(False), Exposure(colours=3), GammaCurve(),
]  # fmt: skip


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def near_the_start(family: Family) -> torch.Tensor:
    start = family.start().double()
    return family.bounded(start + 0.3 * random(2, len(start)))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f"{f.label} {vars(f)}")
def test_the_derivatives_in_theta_are_those_of_the_operator(family):
    x, theta = random(2, 3, 20, 16), near_the_start(family)
    tangent = family.tangent(theta, x)

    def value(theta: torch.Tensor) -> torch.Tensor:
        operator = family.operator(theta)
        return operator.picture(operator.forward(x))

    torch.testing.assert_close(tangent.y, value(theta))
    d, v = random(*theta.shape, seed=1) - 0.5, random(*x.shape, seed=2) - 0.5
    e = 1e-6
    difference = (value(theta + e * d) - value(theta - e * d)) / (2 * e)
    # central differences: e^2 and rounding / e
    torch.testing.assert_close(tangent.push(d), difference, rtol=1e-6, atol=1e-7)
    left, right = (tangent.push(d) * v).flatten(1).sum(1), (tangent.pull(v) * d).sum(1)
    torch.testing.assert_close(left, right)
    columns = tangent.columns(theta.shape[1])
    torch.testing.assert_close(columns @ d[:, :, None], tangent.push(d).flatten(1)[:, :, None])


@pytest.mark.parametrize("family", [GaussianWidth(13), Motion(11), FreeKernel(5, "circular")], ids=lambda f: f.label)
def test_autograd_reaches_theta_and_nothing_is_kept_meanwhile(family):
    x, theta = random(2, 3, 20, 16), near_the_start(family).requires_grad_()
    v, exact = random(2, 3, 20, 16, seed=2), family.tangent(theta.detach(), x).pull(random(2, 3, 20, 16, seed=2))
    operator = family.operator(theta)
    for factor, whole in ((1.0, operator), (0.5, compose(Scale(0.5), operator))):
        with torch.no_grad():
            whole.forward(x)
        (gradient,) = torch.autograd.grad((whole.forward(x) * v).sum(), theta, retain_graph=True)
        torch.testing.assert_close(gradient, factor * exact)


@pytest.mark.parametrize(
    "family, kernel, off",
    [
        (GaussianWidth(31, sigma=2.3), kernels.gaussian(2.3), 1e-4),  # ours is cut later
        (DiskRadius(31, radius=3.4), kernels.disk(3.4), 1e-3),  # both cut the rim at subpixels
        (Motion(31, length=12, angle=30), kernels.motion(12, 30), 1e-3),
    ],
    ids=["gaussian", "disk", "motion"],
)
def test_kernels_are_those_of_the_operator_nodes(family, kernel, off):
    mine = family.kernel(family.start().double()[None])
    reach = kernel.shape[-1] // 2
    other = torch.zeros_like(mine)
    other[..., 15 - reach : 16 + reach, 15 - reach : 16 + reach] = kernel
    assert (mine - other).abs().max() < off
    assert mine.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("boundary", ["reflect", "circular"])
def test_the_transpose_of_a_picture_is_a_correlation(boundary):
    spread = Spread(random(2, 3, 12, 10), 5, boundary)
    k, v = random(2, 1, 5, 5, seed=1), random(2, 3, 12, 10, seed=2)
    left, right = (spread.forward(k) * v).sum((1, 2, 3)), (spread.adjoint(v) * k).sum((1, 2, 3))
    torch.testing.assert_close(left, right)
    length = spread.forward(k).flatten(1).square().sum(1)
    assert (length <= spread.curvature * k.flatten(1).square().sum(1)).all()


def test_levels_are_read_and_shown_with_their_offset():
    levels, image = Levels(torch.tensor([0.5, 0.6, 0.7]), torch.tensor([0.3, 0.2, 0.1])), random(2, 3, 4, 4).float()
    y = levels.read(image)
    torch.testing.assert_close(levels.picture(y), image)
    truth = levels.pinv(y)
    torch.testing.assert_close(levels.picture(levels.forward(truth)), image)
    torch.testing.assert_close(truth[:, 1], (image[:, 1] - 0.2) / 0.6)


def test_one_kernel_for_each_picture():
    family, theta = GaussianWidth(13), torch.tensor([[1.0], [2.0]], dtype=F64)
    x = random(2, 3, 20, 16)
    operator = family.operator(theta)
    assert operator.batch == 2
    second = operator.take(torch.tensor([1]))
    torch.testing.assert_close(second.forward(x[1:]), operator.forward(x)[1:])
    torch.testing.assert_close(
        operator.prox(x, x, 0.1)[1:], family.operator(theta[1:]).prox(x[1:], x[1:], 0.1), rtol=1e-6, atol=1e-8
    )
