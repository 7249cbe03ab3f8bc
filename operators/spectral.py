"""Linear operators with a known singular value decomposition A = U diag(s) V^H.

The coefficients `V^H x` may be complex and may have any shape; s broadcasts against them. Where s = 0 the
coefficient is not measured. All inverses are then one filter, exact at any image size.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from .base import LinearOperator


def pseudo_reciprocal(s: Tensor) -> Tensor:
    """1 / s, and 0 where s is zero up to rounding."""
    tiny = 100 * torch.finfo(s.dtype).eps * s.abs().max()
    return torch.where(s.abs() > tiny, 1 / s.masked_fill(s.abs() <= tiny, 1.0), 0.0)


def weakest(operator: LinearOperator, y: Tensor) -> float:
    """The smallest singular value that is not zero, for measurements like y; 0 where it is not known."""
    if not isinstance(operator, SpectralOperator):
        return 0.0
    s = operator.singular_values(y.new_empty(0, *operator.image_shape(tuple(y.shape))))
    return 1 / max(pseudo_reciprocal(s).max().item(), torch.finfo(s.dtype).tiny)


class SpectralOperator(LinearOperator):
    """A = U diag(s) V^H, given by s and the four transforms."""

    #: whether each entry of y is one singular direction (U only places entries), so that weights on y keep the SVD
    aligned: bool = False

    @abstractmethod
    def singular_values(self, image: Tensor) -> Tensor:
        """s >= 0 for pictures like `image` (`B C H W`), broadcastable against `to_spectrum(image)`."""

    @abstractmethod
    def to_spectrum(self, x: Tensor) -> Tensor:
        """V^H x."""

    @abstractmethod
    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        """V c, `B C H W`."""

    @abstractmethod
    def measurement_to_spectrum(self, y: Tensor) -> Tensor:
        """U^H y, laid out as the coefficients of x, 0 where s = 0."""

    @abstractmethod
    def measurement_from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        """U c, the shape of y."""

    def _image(self, y: Tensor) -> Tensor:
        """An empty batch of pictures of the right size, device and dtype."""
        return y.new_empty(0, *self.image_shape(y.shape))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = self.singular_values(x) * self.to_spectrum(x)
        return self.measurement_from_spectrum(spectrum, tuple(x.shape[1:])).to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        image = self._image(y)
        spectrum = self.singular_values(image) * self.measurement_to_spectrum(y)
        return self.from_spectrum(spectrum, tuple(image.shape[1:])).to(y.dtype)

    def pinv(self, y: Tensor) -> Tensor:
        image = self._image(y)
        inverse = pseudo_reciprocal(self.singular_values(image))
        return self.from_spectrum(inverse * self.measurement_to_spectrum(y), tuple(image.shape[1:])).to(y.dtype)

    def solve(self, r: Tensor, c: float | Tensor = 0.0) -> Tensor:
        image = self._image(r)
        s = self.singular_values(image)
        gain = pseudo_reciprocal(s) ** 2 if isinstance(c, (int, float)) and c == 0 else 1 / (s**2 + c)
        spectrum = gain * self.measurement_to_spectrum(r)
        return self.measurement_from_spectrum(spectrum, tuple(image.shape[1:])).to(r.dtype)

    def prox(self, z: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
        s = self.singular_values(z)
        residual = self.measurement_to_spectrum(y) - s * self.to_spectrum(z)  # U^H (y - A z), one transform less
        spectrum = s / (s**2 + rho) * residual
        return z + self.from_spectrum(spectrum, tuple(z.shape[1:])).to(z.dtype)

    def filter(self, x: Tensor, response: Callable[[Tensor], Tensor]) -> Tensor:
        """V response(s) V^H x."""
        spectrum = response(self.singular_values(x)) * self.to_spectrum(x)
        return self.from_spectrum(spectrum, tuple(x.shape[1:])).to(x.dtype)

    def multiplicity(self, image: Tensor) -> float | Tensor:
        """How many real directions a coefficient stands for, broadcastable against the coefficients."""
        return 1.0

    def trace(self, image: Tensor, response: Callable[[Tensor], Tensor]) -> Tensor:
        """The trace of V response(s) V^H on pictures like `image`, per picture that the operator is made for, `B`."""
        shape = self.to_spectrum(image[:1]).shape[1:]
        values = response(self.singular_values(image)).double() * self.multiplicity(image)
        return values.expand(self.batch, *shape).flatten(1).sum(1)
