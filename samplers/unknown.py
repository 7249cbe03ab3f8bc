"""What is not known of a measurement: y = P A(theta)(x) + sigma_y z with theta, sigma_y or both to be found.

Given a picture x the parameters have a law of their own, p(theta | x, y) ~ p(y | x, theta) N(theta; theta_0, c^2), with
r = y - P A(theta)(x), its Jacobian J in theta and H = J^T J / sigma_y^2 + I / c^2:

    solve   its mode, by Gauss-Newton steps H^-1 (J^T r / sigma_y^2 - (theta - theta_0) / c^2), halved until they help
    draw    exactly, N(theta + step, H^-1), where A(theta)(x) is linear in theta (levels); otherwise by MALA with the
            metric H (Girolami and Calderhead 2011, https://doi.org/10.1111/j.1467-9868.2010.00765.x, simplified)

x may be a mean given y, with an error e of its own, in all directions alike. What a blur of a kind makes of that has
the mean square e^2 norm(k)^2 in each number of y, so that m e^2 norm(k)^2 / (2 sigma_y^2) comes on top, the M-step of
variational EM (Levin et al. 2011, https://doi.org/10.1109/CVPR.2011.5995308).

A free kernel is solved on the simplex, by accelerated projected gradients (Beck and Teboulle 2009; the projection is
that of Duchi et al. 2008), with the means taken out of x and y, which a kernel of sum 1 does not touch; it is drawn by
the same from y + sigma_y n, which without the simplex is an exact draw. Where all of y was seen the differences of
neighbours take the place of x and y, whose spectrum is nearly flat: tens of steps do what takes thousands otherwise.
The noise is drawn from its law under Jeffreys' prior, sigma_y^2 = norm(r)^2 / chi^2_m for m measured numbers, and
solved as norm(r)^2 / m.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from ..algebra.simplex import least_on_simplex, moved, off_centre, steps
from ..algebra.streams import Streams
from ..measurement.decoded import Decoded
from ..measurement.measurement import Measurement
from ..measurement.noise import ROUNDING, GaussianNoise
from ..operators.compose import compose
from ..operators.families import Blur, Family, FreeKernel, Known, Spread
from ..operators.identity import Identity
from ..operators.levels import Levels


@dataclass(frozen=True)
class Unknown:
    """What is to be found.

    Args:
        family: A(theta).
        noise: whether sigma_y is to be found as well.
        update: whether theta is solved for or drawn.
        spread: c, deviation of theta around its start, theta's unit; infinite for a flat prior.
        rounds: steps of Gauss-Newton or MALA, >= 1; a free kernel takes ten times as many cheaper ones.
    """

    family: Family = Known()
    noise: bool = False
    update: Literal["solve", "draw"] = "solve"
    spread: float = math.inf
    rounds: int = 3


class Search:
    """theta and sigma_y of the samples of one run.

    Args:
        unknown: what is to be found.
        measurement: y, P and the noise, P linear: all that happened after A(theta).
        like: `B ...`, for batch, dtype and device.
        draw: fresh randomness.

    Raises:
        Refusal: when P is not linear.
    """

    def __init__(self, unknown: Unknown, measurement: Measurement, like: Tensor, draw: Streams):
        operator = measurement.operator
        self.codec = operator.codec if isinstance(operator, Decoded) else None
        self.known = replace(measurement, operator=operator.operator) if self.codec else measurement
        if not self.known.operator.linear:
            raise Refusal(f"{operator.label} is not linear; what comes after an unknown damage must be.")
        self.unknown, self.draw, self._error = unknown, draw, 0.0
        self.theta = unknown.family.start().to(like).repeat(len(like), 1)
        self.sigma: Tensor | None = None
        if unknown.noise:
            level = self._deviation(self.known.noise.deviation(self.known.y)).to(like)
            self.sigma = level.square().mean().sqrt().expand(len(like), *[1] * (self.known.y.ndim - 1))
        self.path: list[tuple[Tensor, Tensor | None]] = []

    def picture(self, x0: Tensor) -> Tensor:
        """x0 in the coordinates of the picture."""
        return self.codec.decode(x0) if self.codec else x0

    @torch.inference_mode(False)  # what operators keep may stand in a graph later
    @torch.no_grad()
    def measurement(self) -> Measurement:
        """What was measured, by the theta and sigma_y of now."""
        family, known = self.unknown.family, self.known
        inner = family.operator(self.theta)
        operators = [operator for operator in (known.operator, inner) if not isinstance(operator, Identity)] or [inner]
        operator = operators[0] if len(operators) == 1 else compose(*operators)
        y = known.y.expand(max(len(known.y), len(self.theta)), *known.y.shape[1:])
        if isinstance(inner, Levels):
            shape = known.operator.image_shape(tuple(y.shape))
            y = y - known.operator.forward(inner.offset.to(y).expand(len(y), *shape))
        noise = known.noise if self.sigma is None else GaussianNoise(_one(self.sigma))
        operator = Decoded(operator, self.codec) if self.codec else operator
        return replace(known, operator=operator, y=y, noise=noise)

    @torch.inference_mode(False)
    @torch.no_grad()
    def update(self, x: Tensor, error: float = 0.0) -> None:
        """theta and sigma_y for a picture x, `B C H W`, which may be off by a deviation `error`."""
        family, linear = self.unknown.family, self.known.operator
        draws, self._error = self.unknown.update == "draw", error
        deviation = self._deviation(self._noise(), 0.0 if isinstance(family, Blur) else error).to(x)
        if isinstance(family, FreeKernel):
            self._kernel(x, deviation if draws else None)
        elif len(self.theta[0]):
            step = self._mala if draws and not family.linear else self._newton
            for _ in range(1 if family.linear else self.unknown.rounds):
                step(x, deviation)
            if draws and family.linear:
                self._gaussian(x, deviation)
        if self.sigma is not None:
            residual = self.known.y - linear.forward(family.tangent(self.theta, x).y)
            support = linear.support(self.known.y)
            support = torch.ones_like(residual) if support is None else support.expand_as(residual)
            square, count = (support * residual**2).flatten(1).sum(1), support.flatten(1).sum(1)
            if draws:
                count = (support * self.draw.normal(residual) ** 2).flatten(1).sum(1)
            self.sigma = (square / count).sqrt().clamp_min(ROUNDING).view_as(self.sigma)
        self._note()

    def slope(self, x: Tensor) -> Tensor:
        """The gradient of norm(y - P A(theta)(x))^2 / 2 in theta, `B K`."""
        tangent, linear = self.unknown.family.tangent(self.theta, x), self.known.operator
        return -tangent.pull(linear.adjoint(self.known.y - linear.forward(tangent.y)))

    def move(self, theta: Tensor) -> None:
        """Takes a theta that was found elsewhere."""
        self.theta = theta.clone()
        self._note()

    def _note(self) -> None:
        self.path.append((self.theta[0].clone(), None if self.sigma is None else self.sigma.flatten()[0].clone()))

    def aligned(self, x0: Tensor) -> Tensor:
        """A picture that goes with a free kernel whose centre of mass is in the middle, which is put there.

        A shift of one is undone by the opposite shift of the other, and nothing in y tells which is which. By whole
        pixels; latents and kinds of blur, which are centred, stay as they are.
        """
        family = self.unknown.family
        if self.codec or not isinstance(family, FreeKernel):
            return x0
        kernel = family.kernel(self.theta)
        away = off_centre(kernel)
        self.theta = family.theta(moved(kernel, away, 1, black=True))
        return moved(x0, away, -1)

    def record(self) -> dict[str, Any]:
        """What was found, per sample, and how it came about for the first: curves by name, and the kernel."""
        found: dict[str, Any] = {"theta": self.theta}
        curves = [theta.tolist() for theta, _ in self.path]
        for k, name in enumerate(self.unknown.family.names):
            turn = math.degrees if "degrees" in name else float
            found[name] = [turn(theta[k]) for theta in curves]
        if self.sigma is not None:
            found |= {"sigma_y": [sigma.item() for _, sigma in self.path], "noise": self.sigma.flatten()}
        kernel = self.unknown.family.kernel(self.theta)
        if kernel is not None:
            found["kernel"] = kernel
        return found

    def _noise(self) -> float | Tensor:
        return self.known.noise.deviation(self.known.y) if self.sigma is None else self.sigma

    def _deviation(self, noise: float | Tensor, error: float = 0.0) -> Tensor:
        deviation = torch.as_tensor(noise, dtype=self.known.y.dtype).clamp_min(ROUNDING)
        return (deviation**2 + error**2).sqrt().reshape(*[1] * (self.known.y.ndim - deviation.ndim), *deviation.shape)

    def _residual(self, theta: Tensor, x: Tensor, deviation: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """r / sigma_y, `B m`, and the columns of the Jacobian over sigma_y, `B m K`."""
        tangent, linear = self.unknown.family.tangent(theta, x), self.known.operator

        def columns() -> Tensor:
            units = torch.eye(theta.shape[1], dtype=theta.dtype, device=theta.device)
            pushed = [linear.forward(tangent.push(unit.expand_as(theta))) / deviation for unit in units]
            return torch.stack([column.flatten(1) for column in pushed], 2)

        return ((self.known.y - linear.forward(tangent.y)) / deviation).flatten(1), columns

    def _law(self, theta: Tensor, x: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-log p(theta | x, y), `B`, the Newton step, `B K`, and H's Cholesky factor."""
        r, columns = self._residual(theta, x, deviation)
        J, pull = columns(), (theta - self.unknown.family.start().to(theta)) / self.unknown.spread**2
        H = J.mT @ J + torch.eye(theta.shape[1]).to(theta) * (self.unknown.spread**-2 + 1e-9)
        gradient = (J.mT @ r[:, :, None])[..., 0] - pull
        if self._scatters:
            kernel, slopes = (part.flatten(1, 2) for part in self.unknown.family.slopes(theta))
            weight = self._scatter(r.shape[1], deviation)
            H = H + weight[:, :, None] * slopes.mT @ slopes
            gradient = gradient - weight * (slopes.mT @ kernel[:, :, None])[..., 0]
        factor = torch.linalg.cholesky(H)
        energy = self._energy(theta, r, deviation)
        return energy, torch.cholesky_solve(gradient[..., None], factor)[..., 0], factor

    def _energy(self, theta: Tensor, r: Tensor, deviation: Tensor) -> Tensor:
        away = (theta - self.unknown.family.start().to(theta)) / self.unknown.spread
        energy = (r.square().sum(1) + away.square().sum(1)) / 2
        if self._scatters:
            kernel = self.unknown.family.kernel(theta).flatten(1)
            energy = energy + self._scatter(r.shape[1], deviation)[:, 0] * kernel.square().sum(1) / 2
        return energy

    @property
    def _scatters(self) -> bool:
        """Whether the picture's own error is seen through a kernel."""
        return self._error > 0 and isinstance(self.unknown.family, Blur)

    def _scatter(self, count: int, deviation: Tensor) -> Tensor:
        """What norm(k)^2 / 2 weighs because of the picture's error, `B 1`."""
        return count * self._error**2 / deviation.square().flatten(1).mean(1, keepdim=True)

    def _newton(self, x: Tensor, deviation: Tensor) -> None:
        energy, step, _ = self._law(self.theta, x, deviation)
        theta = self.theta
        for halved in range(4):
            ahead = self.unknown.family.bounded(self.theta + step / 2**halved)
            value = self._energy(ahead, self._residual(ahead, x, deviation)[0], deviation)
            better = value < energy
            theta, energy = torch.where(better[:, None], ahead, theta), torch.where(better, value, energy)
        self.theta = theta

    def _gaussian(self, x: Tensor, deviation: Tensor) -> None:
        _, step, factor = self._law(self.theta, x, deviation)
        self.theta = self.unknown.family.bounded(self.theta + step + _spread_by(factor, self.draw.normal(self.theta)))

    def _mala(self, x: Tensor, deviation: Tensor) -> None:
        energy, step, factor = self._law(self.theta, x, deviation)
        ahead = self.theta + step / 2 + _spread_by(factor, self.draw.normal(self.theta))
        inside = (self.unknown.family.bounded(ahead) == ahead).all(1)
        ahead = self.unknown.family.bounded(ahead)
        energy_ahead, step_ahead, factor_ahead = self._law(ahead, x, deviation)
        there = _log_density(ahead - self.theta - step / 2, factor)
        back = _log_density(self.theta - ahead - step_ahead / 2, factor_ahead)
        chance = energy - energy_ahead + back - there
        uniform = self.draw.uniform(len(x) // len(self.draw.samples)).flatten().to(chance)
        yes = inside & (uniform.log() < chance)
        self.theta = torch.where(yes[:, None], ahead, self.theta)

    def _kernel(self, x: Tensor, deviation: Tensor | None) -> None:
        """A free kernel by accelerated projected gradients, from the one before."""
        family, linear, y = self.unknown.family, self.known.operator, self.known.y
        if deviation is not None:
            y = y + deviation * self.draw.normal(y.expand(len(x), *y.shape[1:]))
        if isinstance(linear, Identity):
            x, y = steps(x), steps(y)
            y[..., -1, :] = y[..., -1] = 0.0
            shown = torch.ones_like(y[:1])
            shown[..., -1, :] = shown[..., -1] = 0.0
            forward = adjoint = lambda v: shown * v
        else:
            x, forward, adjoint = x - x.mean((2, 3), keepdim=True), linear.forward, linear.adjoint
            ones = forward(torch.ones_like(x))
            y = y - y.sum((2, 3), keepdim=True) / ones.sum((2, 3), keepdim=True) * ones
        spread = Spread(x, family.size, family.boundary)

        def slope(k: Tensor) -> Tensor:
            return spread.adjoint(adjoint(forward(spread.forward(k)) - y))

        k = least_on_simplex(slope, spread.curvature, family.kernel(self.theta), 10 * self.unknown.rounds)
        self.theta = family.theta(k)


def _one(sigma: Tensor) -> Tensor:
    """One number where there is one sample, so that methods which know one level take it."""
    return sigma.reshape(()) if sigma.numel() == 1 else sigma


def _spread_by(factor: Tensor, z: Tensor) -> Tensor:
    """A draw of N(0, H^-1) from z ~ N(0, I), with H = factor factor^T."""
    return torch.linalg.solve_triangular(factor.mT, z[..., None], upper=True)[..., 0]


def _log_density(d: Tensor, factor: Tensor) -> Tensor:
    """log N(d; 0, H^-1) up to a constant, `B`."""
    white = (factor.mT @ d[..., None])[..., 0]
    return factor.diagonal(dim1=1, dim2=2).log().sum(1) - white.square().sum(1) / 2
