"""The likelihood's turn: chains against quadrature and closed forms, balance, acceptance, cost."""

from __future__ import annotations

import math

import pytest
import torch
from guidance_rows import F64, matrices, measure, one_thread, random_prior  # noqa: F401
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from posterior.algebra.streams import Streams
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise, PoissonNoise
from posterior.operators.base import Operator
from posterior.operators.convolution import CircularConvolution
from posterior.operators.inpainting import Inpainting
from posterior.operators.kernels import gaussian
from posterior.samplers.likelihood_chain import (
    WANTED,
    Chain,
    Curvature,
    Likelihood,
    evidence,
    hamiltonian_leaps,
    likelihood_draw,
)


class Square(Operator):
    """y = x^2: two modes, and a curvature that changes."""

    def forward(self, x: Tensor) -> Tensor:
        return x**2


def acceptance(likelihood: Likelihood) -> float:
    record = {}
    likelihood.note(record)
    return record["acceptance"]


def moments(y: float, sigma: float, m: float, r: float) -> tuple[float, float]:
    """Mean and variance of p(y given x) N(x; m, r^2) for y = x^2 + sigma z, by quadrature."""
    x = torch.linspace(m - 8 * r, m + 8 * r, 20001, dtype=F64)
    p = (-((y - x**2) ** 2) / (2 * sigma**2) - (x - m) ** 2 / (2 * r**2)).exp()
    p = p / p.sum()
    mean = (p * x).sum()
    return mean.item(), (p * (x - mean) ** 2).sum().item()


@pytest.mark.parametrize("kernel", ["HMC", "MALA"])
def test_an_exact_kernel_has_the_law(kernel):
    """4000 chains on one pixel, whose likelihood is far from Gaussian, after enough steps."""
    y, sigma, m, r, count = 0.3, 0.4, 0.5, 0.6, 4000
    measurement = Measurement(Square(), torch.full((1, 1, 1, 1), y, dtype=F64), GaussianNoise(sigma))
    likelihood = Likelihood(measurement, Chain(kernel, 150), Streams(1, "test"))
    x = likelihood(torch.full((count, 1, 1, 1), m, dtype=F64), r).flatten()
    mean, variance = moments(y, sigma, m, r)
    assert x.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance / count))
    assert x.var().item() == pytest.approx(variance, rel=0.15)  # five standard errors of a variance with these tails
    assert 0.4 < acceptance(likelihood) < 0.99


def test_langevin_is_off_by_its_step():
    """On a Gaussian the variance is 1 / (l (1 - h l / 2)) for curvature l: the textbook's, and no more."""
    prior, matrix, sigma, r = random_prior(4), matrices(4)["random"], 0.4, 0.7
    measurement, count = measure(prior, matrix, sigma), 4000
    curvatures, basis = torch.linalg.eigh(matrix.T @ matrix / sigma**2 + torch.eye(16, dtype=F64) / r**2)
    h = 0.6 / curvatures.max().item()
    chain = Likelihood(measurement, Chain("Langevin", 300, rate=h), Streams(1, "test"), exact=False)
    x = chain(torch.zeros(count, 1, 4, 4, dtype=F64), r).flatten(1) @ basis
    expected = 1 / (curvatures * (1 - h * curvatures / 2))
    assert ((x.var(0) / expected - 1).abs() < 5 * (2 / count) ** 0.5).all()
    assert (expected * curvatures).max() > 1.3  # far more than that


@pytest.mark.parametrize("kernel", ["HMC", "MALA"])
def test_the_chain_agrees_with_the_exact_draw(kernel):
    prior, matrix, sigma, r, count = random_prior(4), matrices(4)["blur"], 0.3, 0.5, 3000
    measurement, centre = measure(prior, matrix, sigma), prior.sample(1, 2)
    m = centre.expand(count, -1, -1, -1)
    chained = Likelihood(measurement, Chain(kernel, 200), Streams(1, "test"), exact=False)(m, r).flatten(1)
    precision = matrix.T @ matrix / sigma**2 + torch.eye(16, dtype=F64) / r**2
    mean = torch.linalg.solve(precision, matrix.T @ measurement.y[0] / sigma**2 + centre.flatten() / r**2)
    variance = torch.linalg.inv(precision).diag()
    assert ((chained.mean(0) - mean).abs() < 5 * (variance / count).sqrt()).all()
    assert ((chained.var(0) / variance - 1).abs() < 5 * (2 / count) ** 0.5).all()


def test_leaps_are_reversible_and_keep_the_volume():
    """What Metropolis' rule relies on: the way back with -p leads home, the Jacobian of (x, p) is 1."""
    measurement = Measurement(Square(), torch.tensor([[[[0.3, 0.8]]]], dtype=F64), GaussianNoise(0.4))

    def energy(x: Tensor) -> tuple[Tensor, Tensor]:
        log_p, gradient = evidence(measurement, x)
        return x.square().flatten(1).sum(1) / 2 - log_p, x - gradient

    x, p = (torch.randn(3, 1, 1, 2, dtype=F64, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    e = torch.tensor([0.02, 0.1, 0.2], dtype=F64).reshape(3, 1, 1, 1)
    ahead, _, slope, q = hamiltonian_leaps(energy, x, energy(x)[1], p, e, 4)
    home, _, _, back = hamiltonian_leaps(energy, ahead, slope, -q, e, 4)
    torch.testing.assert_close(home, x)
    torch.testing.assert_close(back, -p)

    def phase(state: Tensor) -> Tensor:
        x, p = state.reshape(2, 1, 1, 1, 2)
        ahead, _, _, q = hamiltonian_leaps(energy, x, energy(x)[1], p, e[1:2], 4)
        return torch.stack([ahead, q]).flatten()

    state, d = torch.stack([x[1:2], p[1:2]]).flatten(), 1e-5
    columns = [(phase(state + d * unit) - phase(state - d * unit)) / (2 * d) for unit in torch.eye(4, dtype=F64)]
    assert torch.linalg.det(torch.stack(columns)).item() == pytest.approx(1, abs=1e-6)


def test_detailed_balance():
    """From the law itself, MALA moves as often from one region to another as back: counts within four deviations."""
    y, sigma, m, r, count = 0.3, 0.4, 0.5, 0.6, 40000
    grid = torch.linspace(m - 8 * r, m + 8 * r, 40001, dtype=F64)
    p = (-((y - grid**2) ** 2) / (2 * sigma**2) - (grid - m) ** 2 / (2 * r**2)).exp()
    start = grid[torch.multinomial(p, count, True, generator=torch.Generator().manual_seed(0))].reshape(-1, 1, 1, 1)
    measurement = Measurement(Square(), torch.full((1, 1, 1, 1), y, dtype=F64), GaussianNoise(sigma))
    likelihood = Likelihood(measurement, Chain("MALA", 1, rate=0.1), Streams(1, "test"))
    end = likelihood(torch.full_like(start, m), r, start)
    assert 0.3 < acceptance(likelihood) < 0.97  # otherwise nothing would be tested
    for a, b in ((-0.2, 0.4), (0.2, 0.8), (0.5, 0.9)):
        there, back = ((start < a) & (end > b)).sum().item(), ((start > b) & (end < a)).sum().item()
        assert there + back > 50
        assert abs(there - back) < 4 * math.sqrt(there + back)


def test_curvature_is_the_largest_eigenvalue():
    """norm(A)^2 / sigma_y^2 per sample, also where the noise depends on the signal or differs between samples."""
    matrix = matrices(4)["random"]
    measurement = measure(random_prior(4), matrix, 0.3)
    curvature, x = Curvature(measurement, Streams(0, "test")), torch.zeros(2, 1, 4, 4, dtype=F64)
    for _ in range(5):  # it goes on where it was
        found = curvature(x)
    largest = torch.linalg.matrix_norm(matrix, 2).item() ** 2 / 0.09
    assert found.flatten().tolist() == pytest.approx([largest] * 2, rel=0.05)
    flat = Measurement(Square(), torch.full((2, 1, 4, 4), 0.25, dtype=F64), PoissonNoise(0.01))
    assert (Curvature(flat, Streams(0, "test"))(x + 0.5) > 100).all()


def test_a_sample_is_the_same_in_any_batch():
    y = torch.tensor([0.3, 0.9, 0.5], dtype=F64).reshape(3, 1, 1, 1).expand(-1, -1, 2, 2)
    m = torch.full((3, 1, 2, 2), 0.5, dtype=F64)
    for kernel in ("HMC", "MALA", "Langevin"):
        all_of_them = Likelihood(Measurement(Square(), y, GaussianNoise(0.1)), Chain(kernel), Streams(0, "test", 3))
        one = Likelihood(Measurement(Square(), y[1:2], GaussianNoise(0.1)), Chain(kernel), Streams(0, "test", [1]))
        for _ in range(3):  # what a chain learns is its own as well
            together, alone = all_of_them(m, 0.5), one(m[1:2], 0.5)
            torch.testing.assert_close(together[1:2], alone)


@pytest.mark.parametrize("size", [0.003, 1.9])
@pytest.mark.parametrize("kernel", ["HMC", "MALA"])
def test_the_step_learns(kernel, size):
    """From much too small or too large to the share of taken steps that is wanted."""
    measurement = measure(random_prior(4), matrices(4)["blur"], 0.3)
    likelihood = Likelihood(measurement, Chain(kernel, 20, size), Streams(1, "test"), exact=False)
    x = torch.zeros(20, 1, 4, 4, dtype=F64)
    for _ in range(60):
        x = likelihood(torch.zeros_like(x), 0.5, x)
    assert acceptance(likelihood) == pytest.approx(WANTED[kernel], abs=0.1)


class Written(TorchDispatchMode):
    """Counts the numbers that operations write, which says how much work there is whatever the machine does."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.total += out.numel()
        return out


@pytest.mark.parametrize("name", ["mask", "blur"])
def test_the_likelihood_s_turn_costs_less_than_a_model_call(name):
    from test_prior_digits import network

    mask = (torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    operator = Inpainting(mask) if name == "mask" else CircularConvolution(gaussian(2.0))
    x = torch.rand(2, 1, 32, 32)
    measurement = Measurement(operator, operator.forward(x), GaussianNoise(0.05)).whitened()
    likelihood_draw(measurement, x, 0.3, Streams(0, "test", 2))  # what is computed once
    with torch.no_grad(), Written() as turn:
        likelihood_draw(measurement, x, 0.3, Streams(0, "test", 2))
    net = network("digits_prior")
    with torch.no_grad(), Written() as call:
        net(x, torch.zeros(2))
    assert 0 < turn.total < 0.2 * call.total
