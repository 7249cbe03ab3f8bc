"""Every operator against dense linear algebra and automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from operator_rows import LINEAR, NONLINEAR, ROWS, Row
from torch import Tensor

from posterior.algebra.refusal import Refusal
from posterior.operators.base import LinearOperator, Operator
from posterior.operators.spectral import SpectralOperator

SPECTRAL = [row for row in LINEAR if isinstance(row.make(), SpectralOperator)]
every = pytest.mark.parametrize("row", ROWS, ids=str)
linear = pytest.mark.parametrize("row", LINEAR, ids=str)
nonlinear = pytest.mark.parametrize("row", NONLINEAR, ids=str)
spectral = pytest.mark.parametrize("row", SPECTRAL, ids=str)


def pictures(row: Row, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(batch, *row.image, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def like(y: Tensor, seed: int = 1) -> Tensor:
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=y.dtype)


def operator(row: Row) -> Operator:
    return row.make().to("cpu", torch.float64)


def dense(operator: LinearOperator, image: tuple[int, int, int], sample: int) -> Tensor:
    """The matrix of one sample of a batch of two, column by column through `forward`."""
    n = image[0] * image[1] * image[2]
    basis = torch.eye(n, dtype=torch.float64).reshape(n, *image)
    if operator.batch == 1:
        return operator.forward(basis).flatten(1).T
    return torch.stack([operator.forward(e.expand(2, -1, -1, -1))[sample].flatten() for e in basis], 1)


def close(actual: Tensor, expected: Tensor, relative: float) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).norm() <= relative * expected.norm().clamp_min(1e-12)


@every
def test_shapes(row: Row) -> None:
    A, x = operator(row), pictures(row)
    A.check(row.image)
    y = A(x)
    assert A.measurement_shape(row.image) == tuple(y.shape[1:])
    assert A.image_shape(tuple(y.shape)) == row.image
    support = A.support(y)
    if support is not None:
        assert support.expand(y.shape).shape == y.shape and torch.equal(y * support, y)
    view = A.picture(y)
    assert view.ndim == 4 and view.shape[0] == 2 and torch.isfinite(view).all()


@linear
def test_adjoint(row: Row) -> None:
    A, u = operator(row), pictures(row)
    Au = A(u)
    v = like(Au)
    left, right = (Au * v).sum(), (u * A.adjoint(v)).sum()
    assert abs(left - right) <= 1e-10 * Au.norm() * v.norm()
    close(A.adjoint(v), Operator.vjp(A, u, v), 1e-10)
    assert torch.equal(A.vjp(u, v), A.adjoint(v))


@nonlinear
def test_vjp_is_the_derivative(row: Row) -> None:
    """Against central differences, apart from the operators whose gradient is straight-through by design."""
    A, x = operator(row), pictures(row)
    v, d = like(A(x)), like(x, 2)
    if "jpeg" in row.name or row.name in ("quantisation", "ordered dither", "random dither", "palette"):
        pytest.skip("straight-through, see test_operator_nonlinear.py")
    h = 1e-6
    numeric = ((A(x + h * d) - A(x - h * d)) * v).sum() / (2 * h)
    assert (A.vjp(x, v) * d).sum().item() == pytest.approx(numeric.item(), rel=1e-5)


@every
def test_generalised_inverse(row: Row) -> None:
    """A(A^+(A(x))) = A(x)."""
    if not row.repeats:
        pytest.skip("only nearly, and for photos: see test_operator_nonlinear.py")
    A, x = operator(row), pictures(row)
    y = A(x)
    try:
        again = A(A.pinv(y))
    except Refusal as refusal:
        assert "choose DPS" in str(refusal) and not A.linear
        return
    close(again, y, 1e-9 if row.exact else 1e-6)


@linear
def test_solve_prox_and_pinv_against_dense(row: Row) -> None:
    A, z = operator(row), pictures(row)
    y, r, rho = A(z), like(A(z)), 0.3
    support = A.support(y)
    r = r if support is None else r * support
    y = y + r  # not in the range
    relative = 1e-9 if row.exact else 1e-6
    solved, prox, pinv = A.solve(r, rho), A.prox(z, y, rho), A.pinv(y)
    for i in range(2):
        M = dense(A, row.image, i)
        m, n = M.shape
        expected = torch.linalg.solve(M @ M.T + rho * torch.eye(m, dtype=M.dtype), r[i].flatten())
        # filler entries of r are 0 and have no equation
        close(A.adjoint(solved)[i].flatten(), M.T @ expected, relative)
        close((solved * (1 if support is None else support))[i].flatten(), expected, relative)
        normal = M.T @ M + rho * torch.eye(n, dtype=M.dtype)
        close(prox[i].flatten(), torch.linalg.solve(normal, M.T @ y[i].flatten() + rho * z[i].flatten()), relative)
        least = torch.linalg.pinv(M, rtol=1e-10) @ y[i].flatten()
        close(pinv[i].flatten(), least, 1e-7 if row.exact else 1e-4)


@spectral
def test_spectrum_against_dense(row: Row) -> None:
    A, x = operator(row), pictures(row)
    shape = row.image
    c = A.to_spectrum(x)
    close(A.from_spectrum(c, shape), x, 1e-12)
    s = A.singular_values(x)
    assert (s >= 0).all() and torch.broadcast_shapes(s.shape, c.shape) == c.shape
    y = like(A(x))
    v = A.measurement_to_spectrum(y)
    assert v.shape == c.shape and (v.abs() * (s == 0)).max() == 0
    close(SpectralOperator.forward(A, x), A(x), 1e-12)
    close(SpectralOperator.adjoint(A, y), A.adjoint(y), 1e-12)
    close(SpectralOperator.pinv(A, y), A.pinv(y), 1e-8)
    filtered = A.filter(x, lambda s: 1 / (1 + 3 * s**2) + s)
    for i in range(2):
        M = dense(A, shape, i)
        _, sigma, vh = torch.linalg.svd(M)
        sigma = torch.nn.functional.pad(sigma, (0, len(vh) - len(sigma)))
        close(filtered[i].flatten(), vh.T @ ((1 / (1 + 3 * sigma**2) + sigma) * (vh @ x[i].flatten())), 1e-8)


@every
def test_a_batch_is_its_samples(row: Row) -> None:
    A, x = operator(row), pictures(row)
    if A.batch == 2:
        return  # samples differ by design; test_masks_of_a_batch looks at them
    y = A(x)
    v = like(y)
    for i in range(2):
        close(A(x[i : i + 1]), y[i : i + 1], 1e-14)
        close(A.vjp(x[i : i + 1], v[i : i + 1]), A.vjp(x, v)[i : i + 1], 1e-12)
        if A.linear:
            close(A.prox(x[i : i + 1], v[i : i + 1], 0.5), A.prox(x, v, 0.5)[i : i + 1], 1e-9)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtype_and_place_are_kept(row: Row, dtype: torch.dtype) -> None:
    A, x = row.make().to("cpu", dtype), pictures(row).to(dtype)
    y = A(x)
    assert y.dtype == dtype and y.device == x.device
    back = A.vjp(x, torch.ones_like(y))
    assert back.dtype == dtype and torch.isfinite(back).all()
    if dtype == torch.bfloat16 and row not in NONLINEAR:
        close(y.double(), operator(row)(x.double()), 0.02)
    if dtype != torch.bfloat16 and A.linear:
        assert A.prox(x, y, 0.5).dtype == dtype


@every
def test_first_use_in_inference_mode(row: Row) -> None:
    """What an operator keeps from a preview must not break a gradient later."""
    A, x = operator(row), pictures(row)
    with torch.inference_mode():
        A.picture(A(x))
    leaf = x.clone().requires_grad_()
    A(leaf).square().sum().backward()
    assert torch.isfinite(leaf.grad).all()


@spectral
def test_the_trace_counts_every_direction(row: Row) -> None:
    A, x = operator(row), pictures(row)
    found = A.trace(x, lambda s: 1 / (s**2 + 0.3))
    assert len(found) == A.batch
    for k in range(A.batch):
        matrix = dense(A, row.image, k)
        eye = torch.eye(matrix.shape[1], dtype=torch.float64)
        close(found[k], torch.linalg.inv(matrix.T @ matrix + 0.3 * eye).trace(), 1e-6)
