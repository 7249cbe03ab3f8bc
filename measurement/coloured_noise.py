"""Noise with neighbours: stationary, with a power spectrum, such as the blotches of phones, of JPEG, of enlarged grain.

    y = A(x) + n,    n ~ N(0, S),    S = T^T diag(P) T + diag(v)

T is the DCT-II of each colour, the mirrored borders of the house's blurs, P > 0 the variance of each of its
coefficients, and v a variance that is added to each number on its own (a map of noise, a soft edge), mostly 0.

White noise blurred by a Gaussian of l pixels has blotches, P ~ exp(-l^2 (w_y^2 + w_x^2)) with w = pi k / n.

Every method knows white noise. So the measurement is whitened: with W^T W = S^-1 and c^2 = min P,

    c W y = c W A(x) + c z,    z ~ N(0, I),    norm(c W) <= 1

which is a blur with little noise, strongest where the noise is loud. W = T^T diag(1 / sqrt P) T where all of y was
measured and v = 0; then W A is spectral if T diagonalises A (a blur with mirrored borders, a scale, noise only), and
conjugate gradients know a near kin if not. Else W predicts each number from those before it (`operators.prediction`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..algebra.krylov import conjugate_gradient
from ..algebra.refusal import Refusal
from ..algebra.streams import Streams
from ..algebra.transforms import dct, idct, wide
from ..operators.base import LinearOperator, Operator
from ..operators.compose import Composition, LinearComposition, WeightedSpectral
from ..operators.convolution import CircularConvolution, CosineFilter, Filter, FourierFilter
from ..operators.diagonal import Diagonal
from ..operators.identity import Scale
from ..operators.prediction import PredictionError
from .noise import MEASURING, ROUNDING, Noise

#: pixels within which numbers predict each other
RADIUS = 4
#: relative residual of what is found back from its errors of prediction
CLOSE = 1e-4


def blotches(
    sigma: float | Tensor, length: float | Tensor, size: tuple[int, int], white: float | Tensor = 0.0
) -> ColouredNoise:
    """White noise that a Gaussian of `length` pixels blurred, and white noise on top of it.

    Args:
        sigma: standard deviation of the blurred noise, image units; a number, or one for each colour, `1 C 1 1`.
        length: of the Gaussian, pixels, >= 0; 0 is white noise.
        size: (H, W) of the measurement.
        white: standard deviation of the noise on top, image units, at least the rounding of 8 bits.
    """
    length, sigma, white = (torch.as_tensor(value, dtype=torch.float64) for value in (length, sigma, white))
    power = torch.ones((), dtype=torch.float64)
    for n, shape in zip(size, ((-1, 1), (-1,)), strict=True):
        line = torch.exp(-((length * (math.pi / n) * torch.arange(n, dtype=torch.float64).reshape(shape)) ** 2))
        power = power * line / line.mean((-2, -1), keepdim=True) if line.ndim > 1 else power * line / line.mean()
    spectrum = sigma**2 * power + white.clamp_min(ROUNDING) ** 2
    return ColouredNoise(spectrum.reshape(1, -1, *size).float())


@dataclass(frozen=True)
class ColouredNoise(Noise):
    """n ~ N(0, T^T diag(P) T + diag(v)).

    Args:
        spectrum: P > 0, `1 C H W` or `B C H W`, H and W those of y, image units squared; C = 1 is one for all colours.
        variance: v >= 0, broadcastable against y.

    Raises:
        Refusal: when the spectrum is not positive, or v negative somewhere.
    """

    spectrum: Tensor
    variance: Tensor | float = 0.0

    def __post_init__(self) -> None:
        if not bool((self.spectrum > 0).all()) or bool((torch.as_tensor(self.variance) < 0).any()):
            raise Refusal("The power of coloured noise is not positive somewhere; add some white noise to it.")

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of each number on its own, broadcastable against y."""
        return (self.spectrum.mean((-2, -1), keepdim=True) + self.variance).sqrt()

    @property
    def floor(self) -> float:
        """c, the standard deviation where the noise is faintest."""
        return self.spectrum.min().sqrt().item()

    def check(self, measurement_shape: tuple[int, ...]) -> None:
        if len(measurement_shape) != 4:
            raise Refusal("Noise with blotches needs a measurement that is a picture; set their size to 0.")
        if self.spectrum.shape[-2:] != measurement_shape[-2:]:
            there, here = (f"{shape[-1]} x {shape[-2]}" for shape in (self.spectrum.shape, measurement_shape))
            raise Refusal(f"The noise's spectrum is {there} and the measurement {here}; make both the same size.")
        super().check(measurement_shape)

    def sample(self, clean: Tensor, seed: int) -> Tensor:
        streams = Streams(seed, MEASURING, len(clean))
        noise = idct(self.spectrum.sqrt() * dct(streams.normal(clean)))
        if self._uneven:
            noise = noise + torch.as_tensor(self.variance).sqrt() * streams.normal(clean)
        return clean + noise

    def deviation(self, clean: Tensor) -> Tensor:
        return self.sigma

    def log_likelihood(self, residual: Tensor, y: Tensor | None = None) -> Tensor:
        """-norm(W r)^2 / 2."""
        return -(self.whitening(residual).forward(residual) ** 2).flatten(1).sum(1) / (2 * self.floor**2)

    def score(self, residual: Tensor, y: Tensor | None = None) -> Tensor:
        """S^-1 r = W^T W r."""
        white = self.whitening(residual)
        return white.adjoint(white.forward(residual)) / self.floor**2

    def widened(self, spread: Tensor) -> ColouredNoise:
        return replace(self, variance=self.variance + torch.as_tensor(spread) ** 2)

    @property
    def correlated(self) -> bool:
        return True

    @property
    def _uneven(self) -> bool:
        return bool((torch.as_tensor(self.variance) > 0).any())

    def whitening(self, y: Tensor, support: Tensor | None = None) -> LinearOperator:
        """c W, for measurements like y of which `support` was measured."""
        if support is None and not self._uneven:
            return Whitening(self.spectrum, self.floor)
        support = y.new_ones(1, 1, *y.shape[2:]) if support is None else support
        pictures, colours = (1 if stride == 0 else None for stride in support.stride()[:2])  # one mask for all
        keep = (support[:pictures, :colours] > 0).to(y)
        return PredictionError(self.covariance(2 * RADIUS), keep, self.variance, self.floor)

    def covariance(self, radius: int) -> Tensor:
        """c(d), the covariance of numbers that lie d apart, far from the borders, `B C 2R+1 2R+1`, float64."""
        power = self._even.double()
        index = torch.arange(-radius, radius + 1, device=power.device)
        rows, columns = (index % n for n in power.shape[-2:])
        return torch.fft.ifft2(power).real[..., rows, :][..., columns]

    @property
    def _even(self) -> Tensor:
        """P of both signs of the frequency, `B C 2H 2W`; the highest, which the DCT leaves out, as the one before."""
        power = self.spectrum
        for dim in (-2, -1):
            n = power.shape[dim]
            power = torch.cat([power, power.narrow(dim, n - 1, 1), power.narrow(dim, 1, n - 1).flip(dim)], dim)
        return power

    def covary(self, x: Tensor) -> Tensor:
        """S x far from mirrored borders, by a Fourier transform of twice the size."""
        h, w = x.shape[-2:]
        spectrum = torch.fft.rfft2(wide(x), s=(2 * h, 2 * w)) * self._even[..., : w + 1]
        return torch.fft.irfft2(spectrum, s=(2 * h, 2 * w))[..., :h, :w].to(x.dtype) + self.variance * x


class Whitening(CosineFilter):
    """c W = T^T diag(c / sqrt P) T."""

    label = "Whitening"
    pictorial = False

    def __init__(self, spectrum: Tensor, floor: float):
        self.gain = floor / spectrum.sqrt()

    @property
    def batch(self) -> int:
        return len(self.gain)

    def transfer(self, image: Tensor) -> Tensor:
        return self.gain.to(image.device)


class FourierWhitening(FourierFilter):
    """What `Whitening` is with periodic borders, for pictures of any size: kin for conjugate gradients."""

    label = "Whitening"

    def __init__(self, gain: Tensor):
        self.gain = gain

    @property
    def batch(self) -> int:
        return len(self.gain)

    def transfer(self, image: Tensor) -> Tensor:
        """The DCT's k-th frequency is pi k / n, that of the Fourier transform 2 pi j / n."""
        rows, columns = (torch.fft.fftfreq(n, device=image.device).abs() * 2 for n in image.shape[-2:])
        h, w = self.gain.shape[-2:]
        row = (rows * h).round().long().clamp(max=h - 1)
        column = (columns[: image.shape[-1] // 2 + 1] * w).round().long().clamp(max=w - 1)
        return self.gain.to(image.device)[..., row, :][..., column]


class Filtered(Filter):
    """One filter after another of the same transform: f is the product of theirs."""

    def __init__(self, outer: Filter, inner: Filter):
        self.outer, self.inner = outer, inner
        self.label = f"{inner.label} with coloured noise"

    @property
    def batch(self) -> int:
        return max(self.outer.batch, self.inner.batch)

    def check(self, image_shape: tuple[int, int, int]) -> None:
        self.inner.check(image_shape)

    def transfer(self, image: Tensor) -> Tensor:
        return self.outer.transfer(image) * self.inner.transfer(image)


class CosineFiltered(Filtered, CosineFilter):
    pass


class FourierFiltered(Filtered, FourierFilter):
    pass


class Predicted(LinearComposition):
    """c W A with a prediction W = L / c, the rows left out that were not measured.

    With u = L^-1 r, by conjugate gradients on L^T L, whose inverse is nearly S / c^2, the proximal step is
    z + A^T (A A^T + rho S / c^2)^-1 L^-1 (y - L A z). Conjugate gradients see S there and not S^-1: for a mask the
    eigenvalues are 1 + rho P / c^2, which lie close together where rho is small.
    """

    def __init__(self, outer: PredictionError, inner: LinearOperator, noise: ColouredNoise):
        super().__init__(outer, inner)
        self.noise, self.floor = noise, noise.floor

    def prox(self, z: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
        return z + self._lifted(y - self.forward(z), rho)

    def solve(self, r: Tensor, c: float | Tensor = 0.0) -> Tensor:
        if isinstance(c, (int, float)) and c == 0:
            return super().solve(r)
        return (r - self.forward(self._lifted(r, c))) / c

    def _lifted(self, r: Tensor, rho: float | Tensor) -> Tensor:
        L, keep, A = self.outer, self.outer.keep, self.inner

        def covary(v: Tensor) -> Tensor:
            return keep * self.noise.covary(keep * v) / self.floor**2

        u = conjugate_gradient(lambda v: L.adjoint(L.forward(v)), L.adjoint(r), None, CLOSE, precondition=covary)
        return A.adjoint(conjugate_gradient(lambda v: keep * A.forward(A.adjoint(keep * v)) + rho * covary(v), u))


def whitened_operator(noise: ColouredNoise, operator: Operator, y: Tensor) -> tuple[Operator, LinearOperator]:
    """c W A, with the best inverse that the two allow, and c W."""
    white = noise.whitening(y, operator.support(y))
    if not operator.linear:
        return Composition(white, operator), white
    spectral = _spectral(white, operator)
    if spectral is not None:
        return spectral, white
    label = f"{operator.label} with coloured noise"
    if isinstance(white, PredictionError):
        whole = Predicted(white, operator, noise)
        whole.label = label
        return whole, white
    whole = LinearComposition(white, operator)
    whole.label = label
    near = operator.nearby or operator
    plain = Whitening(noise.spectrum, noise.floor)
    if isinstance(near, CircularConvolution):
        whole.nearby = FourierFiltered(FourierWhitening(plain.gain), near)
    elif operator.image_shape(tuple(y.shape))[1:] == y.shape[-2:]:
        whole.nearby = _spectral(plain, near) or (plain if isinstance(near, Diagonal) else None)
    return whole, white


def log_determinant(white: LinearOperator, y: Tensor) -> Tensor:
    """log |det c W| over what was measured, `B`: W is diagonal in the cosine transform, or triangular row by row."""
    gain = white.gain.expand(y.shape)
    return gain.where(gain > 0, 1.0).log().flatten(1).sum(1)


def _spectral(white: LinearOperator, operator: Operator) -> Filter | WeightedSpectral | None:
    """W A where both are diagonal in the same basis."""
    if not isinstance(white, Whitening):
        return None
    if isinstance(operator, CosineFilter):
        return CosineFiltered(white, operator)
    if isinstance(operator, Scale):
        return WeightedSpectral(Scale(operator.factor), white)
    if isinstance(operator, WeightedSpectral) and isinstance(operator.outer, Scale):
        inner = _spectral(white, operator.inner)
        return None if inner is None else WeightedSpectral(Scale(operator.outer.factor), inner)
    return None
