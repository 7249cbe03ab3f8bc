"""Every operator in every guidance block that it may meet, with uneven and with Poisson noise, against dense algebra.

A is the matrix of what the operator does to unit pictures; for operators that are not linear it is the Jacobian at the
point where the block looks, and y what a linear operator would have measured there.
"""

from __future__ import annotations

import math
from functools import cache

import operator_rows
import pytest
import torch
from guidance_rows import F64, LEVELS, NEXT, ROWS, Dense64, Row, one_thread  # noqa: F401
from torch import Tensor

from posterior.algebra.refusal import Refusal
from posterior.diffusion.run import combined
from posterior.diffusion.state import predict
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise, PoissonNoise
from posterior.operators.base import Operator
from posterior.operators.spectral import SpectralOperator
from posterior.priors.gaussian import Gaussian

LEVEL = "flow"
T = LEVELS[LEVEL]
#: with these the matrix is small
SMALL = {"jpeg": (3, 4, 6), "jpeg without subsampling": (3, 4, 6), "jpeg of a camera": (3, 4, 6)}
#: the likelihood of these knows the state's error where others know the prediction's
AT_STATE = ("General, Score-ALD",)
#: methods that need no linear operator, and what those that take a generalised inverse for one make of g, its residual
ANY = ("DPS", "STSL", "LGD-MC", "MPGD", "DSG", "General, DPS", "General, constant", "General, norm", *AT_STATE)
INVERSE = {
    "Pi-GDM": lambda d, g: d.V @ g / d.white,
    "Pi-GDM without Jacobian": lambda d, g: g,
    "Pi-GDM published": lambda d, g: T.alpha**2 / T.sigma**2 * d.V @ g,
}
#: methods that work in singular directions, which weights on y must leave as they are
SPECTRAL = ("DDNM+", "SNIPS", "DDRM")


@cache
def prior(shape: tuple[int, int, int]) -> Gaussian:
    """Pictures around grey with a random covariance, standard deviations of 0.05 to 0.3."""
    g, n = torch.Generator().manual_seed(0), math.prod(shape)
    basis = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=F64))[0]
    covariance = basis @ torch.diag(torch.logspace(-2.6, -1, n, dtype=F64)) @ basis.T
    return Gaussian.from_covariance(0.3 + 0.4 * torch.rand(shape, generator=g, dtype=F64), covariance)


@cache
def covariance(shape: tuple[int, int, int]) -> Tensor:
    """Cov[x_0|x_t]."""
    C = prior(shape).covariance()
    return C - T.alpha**2 * C @ torch.linalg.solve(T.alpha**2 * C + T.sigma**2 * torch.eye(len(C), dtype=F64), C)


def uneven(y: Tensor) -> GaussianNoise:
    return GaussianNoise(0.05 + 0.45 * torch.rand(y.shape, dtype=F64, generator=torch.Generator().manual_seed(8)))


NOISES = {"noise map": uneven, "Poisson": lambda y: PoissonNoise(0.02, 0.03)}


def jacobian(operator: Operator, x: Tensor) -> tuple[Tensor, Tensor]:
    """A at each sample of x, `B m n`, and A(x), `B m`."""
    y = operator.forward(x)
    batch, m, n = len(x), y[0].numel(), x[0].numel()
    if operator.linear:
        units = torch.eye(n, dtype=F64).reshape(n, 1, *x.shape[1:])
        if operator.batch == 1:
            columns = operator.forward(units[:, 0]).reshape(n, 1, m).expand(n, batch, m)
        else:
            columns = torch.stack([operator.forward(unit.expand_as(x)).reshape(batch, m) for unit in units])
        return columns.permute(1, 2, 0), y.reshape(batch, m)
    units = torch.eye(m, dtype=F64).reshape(m, *y.shape[1:])
    pulled = [operator.linearise(point.expand(m, *point.shape))[1](units) for point in x]
    return torch.stack(pulled).reshape(batch, m, n), y.reshape(batch, m)


def points(measurement: Measurement, x: Tensor, m: Tensor, at: Tensor) -> list[Dense64]:
    """One for each sample; `at` is where an operator that is not linear is taken for linear."""

    def each(value: float | Tensor, like: Tensor) -> Tensor:
        return torch.as_tensor(value, dtype=F64).expand(len(x), *like.shape[1:]).flatten(1)

    A, value = jacobian(measurement.operator, at)
    y, noise, V = measurement.y, measurement.noise, covariance(tuple(x.shape[1:]))
    linear = each(y, y) - value + torch.einsum("bmn,bn->bm", A, at.flatten(1))
    sigma = each(noise.deviation(y), y)
    scatter = each(noise.deviation(value.reshape(len(x), *y.shape[1:])), y)
    rows = zip(x.flatten(1), m.flatten(1), A, linear, sigma, scatter, strict=True)
    return [Dense64(x, m, V, A, y, sigma, T, NEXT[LEVEL], scatter) for x, m, A, y, sigma, scatter in rows]


def allowed(row: Row, operator: Operator, A: Tensor) -> bool:
    """Whether the block takes the operator, by what the field knows of the method."""
    if not operator.linear:
        invertible = type(operator).pinv is not Operator.pinv
        return row.name.startswith(ANY) or (row.name in INVERSE and invertible)
    gram = A @ A.T
    aligned = (gram - gram.diagonal().diag()).abs().max() < 1e-9
    return row.name not in SPECTRAL or (isinstance(operator, SpectralOperator) and bool(aligned))


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("case", operator_rows.ROWS, ids=str)
def test_a_block_and_an_operator_are_their_dense_formula(case: operator_rows.Row, noise: str):
    operator, shape = case.make().to("cpu", F64), SMALL.get(case.name, case.image)
    model, g = prior(shape), torch.Generator().manual_seed(5)
    truth = model.sample(operator.batch, 3)
    measurement = Measurement.simulate(operator, truth, NOISES[noise](operator.forward(truth)), 5)
    x = T.alpha * model.sample(2, 4) + T.sigma * torch.randn(2, *shape, dtype=F64, generator=g)
    state = predict(model.denoiser, x, T, True, s=NEXT[LEVEL])
    at_prediction = points(measurement, x, state.x0, state.x0)
    at_state = at_prediction if operator.linear else points(measurement, x, state.x0, x / T.alpha)
    wrong = {}
    for row in ROWS:
        if row.clean:
            continue
        try:
            block = row.make(measurement)
        except Refusal:
            assert not allowed(row, operator, at_prediction[0].A), row.name
            continue
        assert allowed(row, operator, at_prediction[0].A), row.name
        estimate = combined([block], state)
        if not (row.x0 or row.shift):
            assert estimate.x0.isfinite().all()
            continue
        inverse = None
        if row.name in INVERSE and not operator.linear:
            inverse = (operator.pinv(measurement.y) - operator.pinv(operator.forward(state.x0))).flatten(1)
        for i, d in enumerate(at_state if row.name in AT_STATE else at_prediction):
            got = estimate.x0[i].flatten() - d.m if row.x0 else estimate.shift[i].flatten()
            if inverse is None:
                expected = row.x0(d) - d.m if row.x0 else row.shift(d)
            else:
                expected = INVERSE[row.name](d, inverse[i])
            error = ((got - expected).norm() / expected.norm().clamp_min(1e-12)).item()
            if not error < 1e-5:  # conjugate gradients
                wrong[row.name] = error
    assert not wrong
