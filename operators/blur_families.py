"""Blurs with unknown parameters, and their derivatives in closed form.

    Gaussian blur   k ~ exp(-r^2 / (2 s^2))           dk/ds = k (r^2 - E_k[r^2]) / s^3
    defocus         k ~ share of a pixel with r <= R  d/dR of the share is the rim's length in the pixel
    motion          k(p) = mean_t h(p_x - t L cos f) h(p_y + t L sin f), h the hat function, t in [-1/2, 1/2]
    free kernel     k = softmax(theta)                dk = k (d theta - E_k[d theta])

A blur is linear in its kernel, y = X k, so its Jacobian is X dk/dtheta and the transpose is the correlation X^T v of
v with the picture, cut to the kernel's size.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..algebra.transforms import wide
from .base import Operator
from .convolution import Mirror, convolution
from .family import Family, Tangent


class Spread:
    """y = k * x as a linear map of the kernel, for one x, with the border of `convolution`.

    Args:
        x: `B C H W`.
        size: n, the kernel's side, odd.
        boundary: "reflect" or "circular".
    """

    def __init__(self, x: Tensor, size: int, boundary: str = "reflect"):
        self._size, self._border = size, 0 if boundary == "circular" else size // 2
        wider = Mirror(self._border, self._border).forward(wide(x)) if self._border else wide(x)
        self._shape, self.spectrum, self._dtype = tuple(wider.shape[-2:]), torch.fft.rfft2(wider), x.dtype

    @property
    def curvature(self) -> Tensor:
        """A bound on the largest eigenvalue of X^T X, per sample, `B`."""
        return self.spectrum.abs().square().sum(1).flatten(1).amax(1)

    def forward(self, kernel: Tensor) -> Tensor:
        """X k. kernel: `B 1 n n`. Returns `B C H W`."""
        n, (h, w), b = self._size, self._shape, self._border
        laid = F.pad(wide(kernel), (0, w - n, 0, h - n)).roll((-(n // 2), -(n // 2)), (-2, -1))
        y = torch.fft.irfft2(torch.fft.rfft2(laid) * self.spectrum, s=self._shape)
        return y[..., b : h - b, b : w - b].to(self._dtype)

    def adjoint(self, v: Tensor) -> Tensor:
        """X^T v, the correlation with the picture. v: `B C H W`. Returns `B 1 n n`."""
        n, b = self._size, self._border
        spectrum = (torch.fft.rfft2(F.pad(wide(v), (b, b, b, b))) * self.spectrum.conj()).sum(1, keepdim=True)
        return torch.fft.irfft2(spectrum, s=self._shape).roll((n // 2, n // 2), (-2, -1))[..., :n, :n].to(self._dtype)


@dataclass(frozen=True)
class Blur(Family):
    """Blurs, given by a kernel and its derivatives.

    Args:
        size: n, the kernel's side, pixels; odd.
        boundary: "reflect" or "circular".
    """

    size: int = 31
    boundary: str = "reflect"

    @abstractmethod
    def slopes(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The kernel, `B n n`, and its derivative by each parameter, `B n n K`."""

    def kernel(self, theta: Tensor) -> Tensor:
        return self.slopes(theta)[0][:, None]

    def operator(self, theta: Tensor) -> Operator:
        return convolution(self.kernel(theta), self.boundary)

    def tangent(self, theta: Tensor, x: Tensor) -> Tangent:
        spread, (kernel, slopes) = Spread(x, self.size, self.boundary), self.slopes(theta)

        def push(d: Tensor) -> Tensor:
            return spread.forward(torch.einsum("bhwk,bk->bhw", slopes, d.to(slopes))[:, None])

        def pull(v: Tensor) -> Tensor:
            return torch.einsum("bhwk,bhw->bk", slopes, spread.adjoint(v)[:, 0].to(slopes))

        return Tangent(spread.forward(kernel[:, None]), push, pull)

    def _offsets(self, theta: Tensor) -> Tensor:
        """Distance of each row or column from the centre, `n`."""
        return torch.arange(self.size, dtype=theta.dtype, device=theta.device) - self.size // 2


@dataclass(frozen=True)
class GaussianWidth(Blur):
    """theta = (s), the standard deviation."""

    sigma: float = 2.0

    label = "Gaussian blur"
    names = ("sigma (px)",)

    def start(self) -> Tensor:
        return torch.tensor([self.sigma])

    def bounded(self, theta: Tensor) -> Tensor:
        return theta.clamp(0.3, self.size / 6)

    def slopes(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        s, line = theta[:, :, None], self._offsets(theta)
        square = line[:, None] ** 2 + line**2
        k = torch.softmax((-square.flatten() / (2 * s[:, 0] ** 2)), -1).view(-1, self.size, self.size)
        mean = (k * square).sum((1, 2), keepdim=True)
        return k, (k * (square - mean) / s**3)[..., None]


@dataclass(frozen=True)
class DiskRadius(Blur):
    """theta = (R), the radius; the rim is cut at subpixels whose own edge is a ramp."""

    radius: float = 3.0
    samples: int = 8

    label = "defocus"
    names = ("radius (px)",)

    def start(self) -> Tensor:
        return torch.tensor([self.radius])

    def bounded(self, theta: Tensor) -> Tensor:
        return theta.clamp(0.5, self.size / 2 - 0.5)

    def slopes(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        n, m = self.size, self.samples
        points = (torch.arange(n * m, dtype=theta.dtype, device=theta.device) + 0.5) / m - n / 2
        ramp = (theta[:, :, None] - (points[:, None] ** 2 + points**2).sqrt()) * m + 0.5

        def share(fine: Tensor) -> Tensor:
            return fine.reshape(-1, n, m, n, m).mean((2, 4))

        c, rim = share(ramp.clamp(0, 1)), share(m * ((ramp > 0) & (ramp < 1)).to(theta))
        total = c.sum((1, 2), keepdim=True)
        k = c / total
        return k, ((rim - k * rim.sum((1, 2), keepdim=True)) / total)[..., None]


@dataclass(frozen=True)
class Motion(Blur):
    """theta = (L, f), length in pixels and angle in radians, anticlockwise from horizontal."""

    length: float = 10.0
    angle: float = 0.0

    label = "motion blur"
    names = ("length (px)", "angle (degrees)")

    def start(self) -> Tensor:
        return torch.tensor([self.length, math.radians(self.angle)])

    def bounded(self, theta: Tensor) -> Tensor:
        return torch.stack([theta[:, 0].clamp(1.0, self.size - 2.0), theta[:, 1]], 1)

    def slopes(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        count, line = 16 * self.size, self._offsets(theta)
        t = (torch.arange(count, dtype=theta.dtype, device=theta.device) + 0.5) / count - 0.5
        length, angle = theta[:, :1], theta[:, 1:]
        c, s = angle.cos(), angle.sin()

        def hat(u: Tensor) -> tuple[Tensor, Tensor]:
            return (1 - u.abs()).clamp_min(0), -u.sign() * (u.abs() < 1)

        (hx, dx), (hy, dy) = hat(line - (length * c * t)[..., None]), hat(line + (length * s * t)[..., None])

        def mean(y: Tensor, x: Tensor) -> Tensor:
            return y.mT @ x / count

        by_length = mean(hy, dx * (-c * t)[..., None]) + mean(dy * (s * t)[..., None], hx)
        by_angle = mean(hy, dx * (length * s * t)[..., None]) + mean(dy * (length * c * t)[..., None], hx)
        return mean(hy, hx), torch.stack([by_length, by_angle], -1)


@dataclass(frozen=True)
class FreeKernel(Blur):
    """theta = log k up to a constant: any kernel >= 0 of sum 1. Starts as a Gaussian of a sixth of the side."""

    label = "any blur"
    names = ()

    def start(self) -> Tensor:
        line = self._offsets(torch.zeros(1))
        return (-(line[:, None] ** 2 + line**2) / (2 * (self.size / 6) ** 2)).flatten()

    def bounded(self, theta: Tensor) -> Tensor:
        return theta - theta.amax(1, keepdim=True)

    def kernel(self, theta: Tensor) -> Tensor:
        return theta.softmax(1).view(-1, 1, self.size, self.size)

    def theta(self, kernel: Tensor) -> Tensor:
        """Of a kernel `B 1 n n` >= 0; what is black is taken as 1e-6 of the sum."""
        return kernel.flatten(1).clamp_min(1e-6).log()

    def slopes(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        k = theta.softmax(1)
        slopes = torch.diag_embed(k) - k[:, :, None] * k[:, None]
        return k.view(-1, self.size, self.size), slopes.view(-1, self.size, self.size, self.size**2)

    def tangent(self, theta: Tensor, x: Tensor) -> Tangent:
        spread, k = Spread(x, self.size, self.boundary), theta.softmax(1)

        def centred(d: Tensor) -> Tensor:
            return d - (k * d).sum(1, keepdim=True)

        return Tangent(
            spread.forward(self.kernel(theta)),
            lambda d: spread.forward((k * centred(d)).view(-1, 1, self.size, self.size)),
            lambda v: k * centred(spread.adjoint(v).flatten(1)),
        )
