"""The smoothest pictures that explain a measurement, against dense algebra."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from posterior.algebra.checkpoint import watched
from posterior.algebra.krylov import conjugate_gradient
from posterior.algebra.multigrid import Grids, Multigrid
from posterior.diffusion.level import Level
from posterior.diffusion.state import predict
from posterior.guidance.ddnm import DDNM
from posterior.guidance.diffpir import DiffPIR
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.measurement.smooth import harmonic, kriged, membrane, negative_laplacian, smooth_inverse
from posterior.operators.base import LinearOperator
from posterior.operators.compose import compose
from posterior.operators.convolution import CircularConvolution, convolution
from posterior.operators.crop import Crop
from posterior.operators.diagonal import Weight
from posterior.operators.downscale import downscale
from posterior.operators.inpainting import Inpainting, RandomPixels
from posterior.operators.kernels import gaussian

F64 = torch.float64
SIZE = 12
OPERATORS = {
    "out of focus": lambda: convolution(gaussian(0.6).to(F64)),
    "lost pixels": lambda: RandomPixels(0.6, 1),
    "hole": lambda: Inpainting(torch.nn.functional.pad(torch.ones(1, 1, 5, 6, dtype=F64), (3, 3, 4, 3))),
    "wider frame": lambda: Crop(3, 0, 2, 1),
    "lost pixels with a noise map": lambda: compose(Weight(1 + picture().abs()), RandomPixels(0.6, 1)),
    "smaller": lambda: downscale(3, "box"),
    "blurred": lambda: CircularConvolution(gaussian(0.6).to(F64)),
}


def picture(count: int = 1) -> Tensor:
    return torch.randn(count, 1, SIZE, SIZE, dtype=F64, generator=torch.Generator().manual_seed(0))


LOCAL = [name for name, make in OPERATORS.items() if make().local]


def matrix_of(operator: LinearOperator) -> Tensor:
    unit = torch.eye(SIZE * SIZE, dtype=F64).reshape(-1, 1, SIZE, SIZE)
    return operator.forward(unit).flatten(1).T


def laplacian() -> Tensor:
    """D^T D with D the differences between neighbours, written down as Kronecker products."""
    d = torch.eye(SIZE, dtype=F64).diff(dim=0)
    one = torch.eye(SIZE, dtype=F64)
    return torch.kron(d.T @ d, one) + torch.kron(one, d.T @ d)


@pytest.mark.parametrize("noise", [0.1, 1.0, 1e6])
@pytest.mark.parametrize("name", LOCAL)
def test_a_correction_is_continued_as_by_a_dense_solve(name: str, noise: float):
    """Kriging with the precision L / g^2 + I / noise^2 and a known mean; at large noise the harmonic continuation."""
    operator, given, x0 = OPERATORS[name](), picture(2), 0.1 * picture(2).cumsum(-1)
    keep = (operator.singular_values(given) > 0).expand(1, 1, SIZE, SIZE).flatten()
    got = kriged(operator, given, x0, noise).flatten(1)
    for c, u, answer in zip(given.flatten(1), x0, got, strict=True):
        slope2 = (u.diff(dim=1).square().sum() + u.diff(dim=2).square().sum()) / u.numel()
        precision = laplacian() / slope2 + torch.eye(SIZE * SIZE, dtype=F64) / noise**2
        mean = c[keep].mean()
        away = -torch.linalg.solve(precision[~keep][:, ~keep], precision[~keep][:, keep] @ (c[keep] - mean))
        torch.testing.assert_close(answer[keep], c[keep])
        assert (answer[~keep] - mean - away).norm() < 0.01 * c.norm()


@pytest.mark.parametrize("width", [1, 8, 50])
def test_a_picture_of_one_row_is_continued(width: int):
    """One sample has lost nothing, the other all but a pixel, or that as well."""
    correction, lost = torch.ones(2, 1, 1, width, dtype=F64), torch.zeros(2, 1, 1, width, dtype=F64)
    lost[1, ..., 1:] = 1
    operator = RandomPixels(0.5)
    operator.singular_values = lambda image: 1 - lost
    for noise in (0.1, 1e6):
        torch.testing.assert_close(kriged(operator, (1 - lost) * correction, correction, noise), correction)


SHAPES = {
    "hole": lambda x, y: (x - 0.5).abs().maximum((y - 0.4).abs()) < 0.25,
    "frame": lambda x, y: (x - 0.5).abs().maximum((y - 0.5).abs()) > 0.25,
    "disk at the border": lambda x, y: (x - 0.8).square() + (y - 0.5).square() < 0.3**2,
    "comb": lambda x, y: (8 * x) % 1 < 0.6,
}


@pytest.mark.parametrize("screen", [1e-4, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(96, 96), (61, 130)])
def test_one_step_is_near_and_few_reach_the_solution(shape: str, screen: float, size: tuple[int, int]):
    """Of a smooth correction; that of conjugate gradients without multigrid, to the last digits, is the reference."""
    y, x = torch.meshgrid(*(torch.linspace(0, 1, n, dtype=F64) for n in size), indexing="ij")
    keep = ~SHAPES[shape](x, y)[None, None]
    values = keep * torch.stack([(5 * x + y).sin() * (7 * y).cos(), x - y, 0.3 + x * y])[None]
    grids = Grids(keep, F64)
    grid, unknown = Multigrid(grids, screen), grids.unknown[0]
    exact = values + conjugate_gradient(
        lambda c: unknown * (negative_laplacian(unknown * c) + screen * c),
        -unknown * (negative_laplacian(values)), None, 1e-11, 2000,
    )  # fmt: skip
    one = grid.improved(grid.start(values))
    assert torch.equal(keep * one, values)
    assert (one - exact).norm() < 0.15 * exact[~keep.expand_as(exact)].norm()
    told = []
    with watched(told.append):
        got = harmonic(values, keep, 1e-8, screen)
    torch.testing.assert_close(got, exact, rtol=1e-5, atol=1e-5)
    assert len(told) < 40  # takes 27; without multigrid hundreds


def test_the_harmonic_continuation_is_that_of_a_dense_solve():
    operator, given = OPERATORS["lost pixels"](), picture(2)
    keep = (operator.singular_values(given) > 0).expand(2, 1, SIZE, SIZE)
    lost, expected = ~keep[0].flatten(), given.flatten(1).clone()
    stiff = laplacian() + 0.3 * torch.eye(SIZE * SIZE, dtype=F64)
    expected[:, lost] = -torch.linalg.solve(stiff[lost][:, lost], stiff[lost][:, ~lost] @ expected[:, ~lost].T).T
    torch.testing.assert_close(harmonic(given, keep, None, 0.3).flatten(1), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_membrane_and_the_plate_are_those_of_a_dense_solve(name):
    operator = OPERATORS[name]()
    y, a = operator.forward(picture()), matrix_of(operator)
    energies = {"membrane": laplacian(), "plate": laplacian() @ laplacian()}
    got = {"membrane": membrane(operator, y, 0.05, 1e-12), "plate": smooth_inverse(operator, y, 0.05)}
    for key, energy in energies.items():
        expected = torch.linalg.solve(a.T @ a + 0.05 * energy, a.T @ y.flatten())
        torch.testing.assert_close(got[key].flatten(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_smooth_correction_undoes_an_offset_and_keeps_what_was_measured(name):
    """With the truth in another brightness as prediction; the pseudo-inverse leaves it where nothing was measured."""
    truth, operator = picture(2), OPERATORS[name]()
    measurement = Measurement.simulate(operator, truth, GaussianNoise(0.0), 0)
    state = predict(lambda x, t: truth + 0.3, torch.zeros_like(truth), Level(1.0, 0.5))
    for method in (DDNM, DiffPIR):
        smooth, plain = (method(measurement, smooth=on).estimate(state, state.x0).x0 for on in (True, False))
        for answer in (smooth, plain):
            torch.testing.assert_close(operator.forward(answer), measurement.y, rtol=1e-8, atol=1e-8)
        if name in LOCAL:
            assert (smooth - truth).abs().max() < 0.01 and (plain - truth).abs().max() == pytest.approx(0.3)
        else:
            assert torch.equal(smooth, plain)
