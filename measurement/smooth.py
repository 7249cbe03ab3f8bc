"""The smoothest picture that explains a measurement: a start of sampling or restoring, a correction, a baseline."""

from __future__ import annotations

import math
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..algebra.cache import Cache
from ..algebra.krylov import conjugate_gradient
from ..algebra.multigrid import Grids, Multigrid
from ..algebra.transforms import dct, idct
from ..operators.base import LinearOperator
from ..operators.compose import compose
from ..operators.convolution import SymmetricConvolution
from ..operators.diagonal import Weight
from .measurement import Measurement
from .noise import ROUNDING


def negative_laplacian(x: Tensor) -> Tensor:
    """-Laplacian of `B C H W` with free borders: the gradient of norm(grad x)^2 / 2."""
    out = torch.zeros_like(x)
    for dim in (-2, -1):
        d = x.diff(dim=dim)
        n = d.shape[dim]
        out.narrow(dim, 0, n).sub_(d)
        out.narrow(dim, 1, n).add_(d)
    return out


def membrane(
    operator: LinearOperator, y: Tensor, weight: float, tolerance: float = 1e-6, iterations: int = 300
) -> Tensor:
    """argmin_x norm(A x - y)^2 + weight norm(grad x)^2, `B C H W`, by conjugate gradients."""
    return _smoothest(operator, y, weight, 1, None, tolerance, iterations)


def _smoothest(
    operator: LinearOperator, y: Tensor, weight: float, order: int, start: Tensor | None, tolerance: float, cap: int
) -> Tensor:
    """argmin_x norm(A x - y)^2 + weight <x, (-Laplacian)^order x>.

    By conjugate gradients; mirrored symmetric blurs are diagonal in the cosine transform, as the Laplacian is.
    """
    b = operator.adjoint(y)
    if isinstance(operator, SymmetricConvolution):
        gain = operator.singular_values(b) ** 2 + weight * laplacian_spectrum(b) ** order
        return idct(dct(b) / gain).to(b.dtype)

    def normal_equations(x: Tensor) -> Tensor:
        bent = x
        for _ in range(order):
            bent = negative_laplacian(bent)
        return operator.adjoint(operator.forward(x)) + weight * bent

    return conjugate_gradient(normal_equations, b, start, tolerance, cap, warn=False)


def laplacian_spectrum(x: Tensor) -> Tensor:
    """The eigenvalues of `negative_laplacian` for pictures like x, `H W`, laid out as their cosine transform."""
    h, w = (4 * (torch.arange(n, dtype=torch.float64) * (math.pi / (2 * n))).sin().square() for n in x.shape[-2:])
    return (h[:, None] + w).to(x)


def through_grey(operator: LinearOperator, x: Tensor) -> Tensor:
    """A picture or correction with the same luminance w . x whose colours are equal: (w . x) / sum(w) in each.

    Where only w . x is measured (`Operator.luma`), A^+ and the proximal step go along w, a bright green: the shortest
    that fits, as if the errors of the three colours had nothing to do with each other. In photographs they
    go together, so that the likely picture that fits lies along grey. For other operators x comes back as it is.
    """
    if operator.luma is None:
        return x
    w = operator.luma.to(x)
    return torch.einsum("c,bchw->bhw", w / w.sum(), x)[:, None].expand_as(x)


#: by operator, for as long as there is one; a run has its own on its device
_GRIDS: WeakKeyDictionary[LinearOperator, Cache] = WeakKeyDictionary()


def _known(operator: LinearOperator, like: Tensor) -> tuple[Grids, Tensor, Tensor] | None:
    """The grids of pictures like this one, 1 where they are measured, and at how many pixels in each colour.

    None where all of it is measured.
    """
    keep = operator.singular_values(like) > 0
    if keep.all():
        return None
    keep = keep.expand(-1, -1, *like.shape[-2:])
    known = keep.to(like)
    return Grids(keep, like.dtype), known, known.sum((2, 3), keepdim=True).clamp_min(1)


def kriged(operator: LinearOperator, correction: Tensor, x0: Tensor, noise: float) -> Tensor:
    """The likeliest error of x0_hat where nothing was measured, given the correction where something was, `B C H W`.

    A data step corrects what was measured and nothing beside it, as if errors of x0_hat were white. Take x_0 as smooth,
    -Laplacian / g^2 its precision, and seen through the noise of x_t; then errors have the precision of both,

        d = argmin_d norm(grad(d - mu))^2 / g^2 + norm(d - mu)^2 / noise^2,    d = correction where it was measured,

    fade within noise / g pixels, and mu, the mean of the correction in each colour, is an offset of the model. This is
    ordinary kriging (https://doi.org/10.2113/gsecongeo.58.8.1246); where the noise is large, and d harmonic, it is
    Poisson image editing (https://doi.org/10.1145/882262.882269). Where luminance is all that was measured it goes on
    into the colours, see `through_grey`; other operators that do not measure the numbers of a picture one by one have
    the correction back as it is.

    Args:
        x0: x0_hat, whose mean squared gradient is g^2.
        noise: sigma_t / alpha_t, > 0.
    """
    if not operator.local:
        return through_grey(operator, correction)
    key = (tuple(correction.shape[1:]), correction.dtype, correction.device)
    kept = _GRIDS.setdefault(operator, Cache(2))
    holes = kept.get(key, lambda: _known(operator, correction))
    if holes is None:
        return correction
    grids, known, count = holes
    mean = (known * correction).sum((2, 3), keepdim=True) / count
    slope2 = (x0 * negative_laplacian(x0)).mean((1, 2, 3), keepdim=True)  # norm(grad x)^2 = <x, -Laplacian x>
    grid = Multigrid(grids, slope2 / noise**2)
    return mean + grid.improved(grid.start(known * (correction - mean)))


def smooth_inverse(operator: LinearOperator, y: Tensor, weight: float = 0.002, iterations: int = 300) -> Tensor:
    """argmin_x norm(A x - y)^2 + weight norm(Laplacian x)^2, `B C H W` in image units.

    Over a hole it is the thin plate that continues the rim, values and slopes (Duchon 1977,
    https://doi.org/10.1007/BFb0086566), for a blur a Tikhonov deconvolution. The membrane with norm(grad x)^2, which
    is easier to find, comes first.

    Args:
        y: `B ...`.
        weight: smoothness against agreement; larger for noisier measurements.
        iterations: cap of the conjugate gradients, each time; a start need not be exact.
    """

    # inside a hole only the small energy speaks, so the residual must become very small to be right there
    start = membrane(operator, y, 5 * weight, 1e-6, iterations)
    return _smoothest(operator, y, weight, 2, start, 1e-6, iterations)


def smooth_start(measurement: Measurement) -> Tensor:
    """The smooth inverse of a measurement whose numbers count less where they are noisier than most, `B C H W`.

    Without it a soft edge of a mask, which is a noisy measurement, would stand in the start as a line, and sampling
    from a low noise level would leave it there. What is not linear has its generalised inverse, whose holes are
    continued from their rim.

    Raises:
        Refusal: when there is no inverse.
    """
    if not measurement.operator.linear:
        inverse, support = measurement.operator.pinv(measurement.y), measurement.operator.support(measurement.y)
        if support is None or support.shape[-2:] != inverse.shape[-2:]:
            return inverse
        return harmonic(inverse, (support > 0).expand_as(inverse))
    deviation = torch.as_tensor(measurement.noise.deviation(measurement.y)).clamp_min(ROUNDING)
    if deviation.numel() == 1:
        return smooth_inverse(measurement.operator, measurement.y)
    weight = (deviation.median() / deviation).clamp(max=1)
    weight = weight.reshape(*[1] * (measurement.y.ndim - weight.ndim), *weight.shape)
    return smooth_inverse(compose(Weight(weight), measurement.operator), weight * measurement.y)


def harmonic(values: Tensor, keep: Tensor, tolerance: float | None = None, screen: float | Tensor = 0.0) -> Tensor:
    """The values where they are kept, and in between the solution of Laplacian(c) = screen c, `B C H W`.

    Solved by conjugate gradients that multigrid prepares and starts.

    Args:
        keep: bool, the shape of values, or 1 where samples or colours have the same.
        tolerance: as in `conjugate_gradient`.
        screen: >= 0, a number or one for each sample, `B 1 1 1`: values fade within 1 / sqrt(screen) pixels.
    """
    grids, values = Grids(keep, values.dtype), values * keep
    grid, unknown = Multigrid(grids, screen), grids.unknown[0]
    start = unknown * grid.start(values)
    return values + conjugate_gradient(
        grid.stiffness, grid.pull(values), start, tolerance, warn=False, precondition=grid.cycle
    )
