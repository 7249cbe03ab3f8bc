"""Gaussian priors N(mu, C), whose denoiser and whose posterior are known in closed form.

With x_t = alpha x_0 + sigma z everything is a function f of the covariance's eigenvalues, applied as a filter f(C):

    E[x_0|x_t]  = mu + alpha C (alpha^2 C + sigma^2 I)^-1 (x_t - alpha mu)
    p_t(x_t)    = N(alpha mu, alpha^2 C + sigma^2 I)

and for a linear measurement y = A x_0 + sigma_y z, with S = A C A^T + sigma_y^2 I (Bishop 2006, section 2.3.3)

    x_0 given y ~ N(mu + K (y - A mu), C - K A C),    K = C A^T S^-1,    log p(y) = log N(y; A mu, S).

The denoiser of that posterior is the exact conditional denoiser E[x_0|x_t, y]. S may be singular (a clean measurement
of a degenerate prior): its pseudo-inverse and pseudo-determinant are taken then.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..algebra.checkpoint import checkpoint
from ..algebra.streams import Streams
from ..measurement.measurement import Measurement
from ..operators.base import Operator

if TYPE_CHECKING:
    from ..diffusion.level import Level

Response = Callable[[Tensor], Tensor]


def dense_matrix(operator: Operator, image_shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """A as a matrix `m x CHW`, by measuring every unit picture; in the dtype and place of `like`."""
    size = math.prod(image_shape)
    units = torch.eye(size, dtype=like.dtype, device=like.device).reshape(size, *image_shape)
    return operator.forward(units).flatten(1).T


class GaussianPrior(ABC):
    """N(mu, C), given by the mean `C H W` and by functions of the covariance.

    States and samples are `B C H W` in the prior's own unit; the dtype of the mean is the dtype of the arithmetic.
    """

    mean: Tensor

    @abstractmethod
    def filter(self, x: Tensor, response: Response) -> Tensor:
        """f(C) x for a function f of the eigenvalues. x: `B C H W`."""

    @abstractmethod
    def trace(self, response: Response) -> Tensor:
        """tr f(C), the sum of f over all eigenvalues, a scalar."""

    def denoiser(self, x_t: Tensor, level: Level) -> Tensor:
        """E[x_0|x_t], `B C H W`, differentiable; where C and sigma both vanish it is the mean."""
        alpha, sigma = level.alpha, level.sigma
        tiny = torch.finfo(self.mean.dtype).tiny
        gain = self.filter(x_t - alpha * self.mean, lambda v: alpha * v / (alpha**2 * v + sigma**2).clamp_min(tiny))
        return self.mean + gain

    def log_prob(self, x_t: Tensor, level: Level) -> Tensor:
        """log p_t(x_t), per sample, `B`; needs sigma > 0 or a covariance of full rank."""
        alpha, sigma = level.alpha, level.sigma
        r = x_t - alpha * self.mean
        energy = (r * self.filter(r, lambda v: 1 / (alpha**2 * v + sigma**2))).flatten(1).sum(1)
        return -0.5 * (energy + self.trace(lambda v: (2 * math.pi * (alpha**2 * v + sigma**2)).log()))

    def sample(self, count: int, seed: int) -> Tensor:
        """`count` independent draws of x_0; sample i depends on the seed and on i only."""
        z = Streams(seed, "prior", count).normal(self.mean.expand(count, *self.mean.shape))
        return self.mean + self.filter(z, torch.sqrt)

    @abstractmethod
    def affine(self, factor: float, offset: float) -> GaussianPrior:
        """The prior of factor x_0 + offset: the same in another unit."""

    def covariance(self) -> Tensor:
        """C as a dense matrix `CHW x CHW`."""
        size = self.mean.numel()
        units = torch.eye(size, dtype=self.mean.dtype, device=self.mean.device).reshape(size, *self.mean.shape)
        return self.filter(units, lambda v: v).flatten(1)

    def _measured(self, measurement: Measurement) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """C A^T, y - A mu and the eigendecomposition of S, on what was measured."""
        if measurement.y.shape[0] != 1:
            raise ValueError("the closed form is for the measurement of one picture")
        y = measurement.y.to(self.mean)
        support = measurement.operator.support(y)
        seen = slice(None) if support is None else support.expand_as(y).flatten() > 0
        matrix = dense_matrix(measurement.operator, tuple(self.mean.shape), self.mean)[seen]
        cross = self.filter(matrix.reshape(-1, *self.mean.shape), lambda v: v).flatten(1).T
        sigma = torch.as_tensor(measurement.noise.sigma, dtype=y.dtype, device=y.device).expand_as(y).flatten()[seen]
        checkpoint()
        values, vectors = torch.linalg.eigh(matrix @ cross + torch.diag(sigma**2))
        return cross, y.flatten()[seen] - matrix @ self.mean.flatten(), values, vectors

    def posterior(self, measurement: Measurement) -> Gaussian:
        """p(x_0 given y) for a linear operator and one y (`1 ...`); d x d linear algebra."""
        cross, residual, values, vectors = self._measured(measurement)
        projected = cross @ vectors
        gain = projected * _inverse(values)
        mean = self.mean + (gain @ (vectors.T @ residual)).reshape(self.mean.shape)
        return Gaussian.from_covariance(mean, self.covariance() - gain @ projected.T)

    def log_evidence(self, measurement: Measurement) -> Tensor:
        """log p(y), a scalar, over the measured entries of y (`1 ...`); of what was seen if y was whitened."""
        _, residual, values, vectors = self._measured(measurement)
        positive = _inverse(values) > 0
        whitened = (vectors.T @ residual)[positive] ** 2 / values[positive]
        volume = torch.as_tensor(measurement.volume).sum()
        return volume - 0.5 * (whitened + (2 * math.pi * values[positive]).log()).sum()


def _inverse(values: Tensor) -> Tensor:
    """1 / l, and 0 for eigenvalues that are zero up to rounding."""
    tiny = 100 * torch.finfo(values.dtype).eps * values.abs().max()
    return torch.where(values > tiny, 1 / values.masked_fill(values <= tiny, 1.0), 0.0)


class Gaussian(GaussianPrior):
    """C = V diag(l) V^T + floor (I - V V^T): dense, of low rank above a floor, or isotropic.

    Args:
        mean: mu, `C H W`.
        variances: l, `r`, not negative.
        basis: V, `CHW x r`, with orthonormal columns.
        floor: variance in all other directions.
    """

    def __init__(self, mean: Tensor, variances: Tensor, basis: Tensor, floor: float | Tensor = 0.0):
        self.mean, self.variances, self.basis = mean, variances, basis
        self.floor = torch.as_tensor(floor, dtype=mean.dtype, device=mean.device)

    @classmethod
    def isotropic(cls, mean: Tensor, deviation: float) -> Gaussian:
        """N(mu, deviation^2 I)."""
        return cls(mean, mean.new_empty(0), mean.new_empty(mean.numel(), 0), deviation**2)

    @classmethod
    def from_covariance(cls, mean: Tensor, covariance: Tensor) -> Gaussian:
        """From a dense C, `CHW x CHW`; eigenvalues that rounding made negative become 0."""
        checkpoint()
        values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
        return cls(mean, values.clamp_min(0), vectors)

    @classmethod
    def from_pictures(cls, pictures: Tensor, floor: float) -> Gaussian:
        """Mean and covariance of a batch `N C H W`, plus a deviation `floor` in every direction."""
        mean = pictures.mean(0)
        centred = (pictures - mean).flatten(1)
        _, values, rows = torch.linalg.svd(centred / math.sqrt(max(len(pictures) - 1, 1)), full_matrices=False)
        return cls(mean, values**2 + floor**2, rows.T.contiguous(), floor**2)

    def affine(self, factor: float, offset: float) -> Gaussian:
        scale = factor**2
        return Gaussian(factor * self.mean + offset, scale * self.variances, self.basis, scale * self.floor)

    def filter(self, x: Tensor, response: Response) -> Tensor:
        flat, rest = x.flatten(1), response(self.floor)
        if self.variances.numel() == 0:
            return rest * x
        if self.variances.numel() == flat.shape[1]:
            return ((flat @ self.basis * response(self.variances)) @ self.basis.T).reshape(x.shape)
        inside = flat @ self.basis * (response(self.variances) - rest)
        return (rest * flat + inside @ self.basis.T).reshape(x.shape)

    def trace(self, response: Response) -> Tensor:
        others = self.mean.numel() - self.variances.numel()
        inside = response(self.variances).sum()
        return inside + others * response(self.floor) if others else inside


class StationaryGaussian(GaussianPrior):
    """A stationary texture on a torus: C = F^H diag(S_f) F, F the orthonormal Fourier transform.

    S_f is the power spectrum, at each frequency f a Hermitian matrix between the colours; C holds at every pixel.

    Args:
        mean: mu, `C H W`.
        spectrum: S_f, `H W C C` complex, with the symmetry S_-f = conj(S_f) of a real field.
    """

    def __init__(self, mean: Tensor, spectrum: Tensor):
        self.mean = mean
        # small Hermitian matrices, made once: not every accelerator decomposes them
        values, vectors = torch.linalg.eigh(spectrum.cpu())
        self.values, self.vectors = values.clamp_min(0).to(mean.device), vectors.to(mean.device)

    def affine(self, factor: float, offset: float) -> StationaryGaussian:
        other = copy.copy(self)
        other.mean, other.values = factor * self.mean + offset, factor**2 * self.values
        return other

    @classmethod
    def from_texture(
        cls, picture: Tensor, size: tuple[int, int] | None = None, floor: float = 0.0
    ) -> StationaryGaussian:
        """The Gaussian texture of one picture (Galerne et al. 2011, https://doi.org/10.1109/TIP.2010.2052822).

        Its covariance is the autocorrelation of the picture's periodic component u, S_f = u_f u_f^H. A larger size is
        reached by laying u with faded borders into an empty picture, a smaller one by cutting the middle out.

        Args:
            picture: `C h w`.
            size: (H, W) of the pictures to come; that of the picture by default.
            floor: deviation that is added in every direction.
        """
        height, width = size or picture.shape[-2:]
        h, w = min(height, picture.shape[-2]), min(width, picture.shape[-1])
        top, left = (picture.shape[-2] - h) // 2, (picture.shape[-1] - w) // 2
        patch = picture[:, top : top + h, left : left + w]
        mean = patch.mean((1, 2), keepdim=True)
        component = periodic_component(patch - mean)
        faded = component * _fade(h, height, picture)[:, None] * _fade(w, width, picture)
        spot = picture.new_zeros(picture.shape[0], height, width)
        energy = faded.square().mean().clamp_min(torch.finfo(faded.dtype).tiny)  # a picture of one colour has none
        spot[:, :h, :w] = faded * (height * width * component.square().mean() / energy / (h * w)).sqrt()
        u = torch.fft.fft2(spot, norm="ortho").permute(1, 2, 0)
        noise = floor**2 * torch.eye(len(picture), dtype=u.dtype, device=u.device)
        return cls(mean.expand_as(spot).contiguous(), u[..., :, None] * u[..., None, :].conj() + noise)

    def filter(self, x: Tensor, response: Response) -> Tensor:
        coefficients = torch.fft.fft2(x, norm="ortho").permute(0, 2, 3, 1)[..., None]
        filtered = self.vectors @ (response(self.values)[..., None] * (self.vectors.mH @ coefficients))
        return torch.fft.ifft2(filtered[..., 0].permute(0, 3, 1, 2), norm="ortho").real

    def trace(self, response: Response) -> Tensor:
        return response(self.values).sum()


def _fade(n: int, size: int, like: Tensor) -> Tensor:
    """A window over n pixels that falls to 0 within the last quarters, or 1 where all of `size` is covered."""
    if n == size:
        return like.new_ones(n)
    distance = torch.arange(n, dtype=like.dtype, device=like.device) + 0.5
    return torch.sin(torch.pi / 2 * (torch.minimum(distance, n - distance) * 4 / n).clamp(max=1)) ** 2


def periodic_component(picture: Tensor) -> Tensor:
    """A picture `C H W` without its jumps across opposite borders (Moisan 2011, https://doi.org/10.1007/s10851-010-0227-1).

    The smooth part s solves a periodic Poisson equation whose source are the jumps; the rest tiles without seams.
    """
    jump = torch.zeros_like(picture)
    rows, columns = picture[:, 0] - picture[:, -1], picture[:, :, 0] - picture[:, :, -1]
    jump[:, 0] += rows
    jump[:, -1] -= rows
    jump[:, :, 0] += columns
    jump[:, :, -1] -= columns
    factory = {"dtype": picture.dtype, "device": picture.device}
    cosines = [(2 * torch.pi * torch.fft.fftfreq(n, **factory)).cos() for n in picture.shape[-2:]]
    laplacian = 4 - 2 * cosines[0][:, None] - 2 * cosines[1]
    laplacian[0, 0] = 1.0  # the jumps sum to zero, so this coefficient of s is zero
    return picture - torch.fft.ifft2(torch.fft.fft2(jump) / laplacian).real
