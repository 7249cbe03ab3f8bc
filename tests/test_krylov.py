"""Conjugate gradients against dense solves."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from posterior.algebra.checkpoint import watched
from posterior.algebra.krylov import conjugate_gradient, minimal_residual

F64 = torch.float64


def problem(n: int = 40, condition: float = 1e4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=F64))
    matrix = q @ torch.diag(torch.logspace(0, -torch.tensor(condition).log10().item(), n, dtype=F64)) @ q.T
    return matrix, torch.randn(3, n, generator=generator, dtype=F64)


class Counted:
    """A matrix as a function that counts its calls."""

    def __init__(self, matrix: Tensor):
        self.matrix, self.calls = matrix, 0

    def __call__(self, v: Tensor) -> Tensor:
        self.calls += 1
        return v @ self.matrix


def test_it_solves_and_each_sample_is_its_own() -> None:
    matrix, b = problem()
    b[1] = 0  # converged from the start, must not become 0 / 0
    x = conjugate_gradient(lambda v: v @ matrix, b)
    assert torch.allclose(x, torch.linalg.solve(matrix, b.T).T, rtol=1e-6, atol=1e-8)
    assert torch.allclose(x[2:], conjugate_gradient(lambda v: v @ matrix, b[2:]), rtol=1e-8)


def test_a_singular_system_gives_the_least_norm() -> None:
    matrix, b = problem(condition=10)
    matrix = matrix.clone()
    matrix[:, :7] = matrix[:7] = 0
    b = b @ matrix
    expected = b @ torch.linalg.pinv(matrix, rtol=1e-10)
    assert torch.allclose(conjugate_gradient(lambda v: v @ matrix, b), expected, rtol=1e-6, atol=1e-8)


def test_a_preconditioner_saves_products_and_not_accuracy() -> None:
    matrix, b = problem()
    near = torch.linalg.inv(matrix + 1e-4 * torch.eye(40, dtype=F64))
    plain, preconditioned = Counted(matrix), Counted(matrix)
    expected = conjugate_gradient(plain, b)
    x = conjugate_gradient(preconditioned, b, precondition=lambda r: r @ near)
    assert torch.allclose(x, expected, rtol=1e-6, atol=1e-7)
    assert preconditioned.calls < plain.calls / 3


def test_the_cap_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    matrix, b = problem()
    with caplog.at_level(logging.WARNING, "posterior"):
        conjugate_gradient(lambda v: v @ matrix, b)
        assert not caplog.messages
        conjugate_gradient(lambda v: v @ matrix, b, iterations=5)
        assert "stopped at 5 iterations with a relative residual of" in caplog.messages[0]


@pytest.mark.parametrize("iterations", [200, 21])
def test_looking_less_often_changes_no_bit(iterations: int) -> None:
    """On a device that must be waited for, samples that have converged stand still until the next look."""
    matrix, b = problem(condition=100)
    b[1] = 0
    seen = [conjugate_gradient(lambda v: v @ matrix, b, None, 1e-6, iterations, look=look) for look in (1, 8, 200)]
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])


def test_a_loop_can_be_watched_and_stopped() -> None:
    class Stop(Exception):
        pass

    matrix, b = problem()
    counted, told = Counted(matrix), []

    def stop_at_half(done: float) -> None:
        told.append(done)
        if done >= 0.5:
            raise Stop

    with watched(stop_at_half), pytest.raises(Stop):
        conjugate_gradient(counted, b, tolerance=0.0, iterations=40)
    assert counted.calls == 20 and told == [k / 40 for k in range(21)]
    conjugate_gradient(counted, b, iterations=3, warn=False)  # and nobody watches any more


def test_minimal_residuals_of_a_matrix_that_is_neither_symmetric_nor_positive():
    """The least residual over each Krylov space by dense algebra; it never grows; the solution at the end."""
    g = torch.Generator().manual_seed(3)
    matrix = torch.randn(12, 12, dtype=torch.float64, generator=g)
    b = torch.randn(3, 12, dtype=torch.float64, generator=g)
    before = b.norm(dim=1)
    for k in (1, 2, 5, 11):
        x = minimal_residual(lambda v: v @ matrix.T, b, k)
        space = torch.stack([torch.linalg.matrix_power(matrix, i) @ b[0] for i in range(k)], 1)
        least = torch.linalg.lstsq(matrix @ space, b[0][:, None]).solution
        residual = (b - x @ matrix.T).norm(dim=1)
        assert residual[0].item() == pytest.approx((b[0] - (matrix @ space @ least)[:, 0]).norm().item(), rel=1e-6)
        assert (residual <= before * (1 + 1e-12)).all()
        before = residual
    torch.testing.assert_close(minimal_residual(lambda v: v @ matrix.T, b, 40), torch.linalg.solve(matrix, b.T).T)
    rank_one = torch.outer(b[0], b[0])  # the space is exhausted at once
    x = minimal_residual(lambda v: v @ rank_one.T, b[:1], 6)
    torch.testing.assert_close(x @ rank_one.T, b[:1])
    assert not minimal_residual(lambda v: v @ matrix.T, torch.zeros_like(b), 3).any()
