"""Super-resolution: the picture was made smaller.

The filters are those of Pillow's antialiased `resize`: stretched by the scale and normalised inside the picture.

    box       mean over the area of the new pixel
    bicubic   Keys' cubic with a = -1/2 (https://doi.org/10.1109/TASSP.1981.1163711), two new pixels to each side
    lanczos   sinc(x) sinc(x / 3), three new pixels to each side
    gaussian  standard deviation of half a new pixel, cut at four of them
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from ..algebra.reflection import reflect
from ..algebra.refusal import Refusal
from .separable import Separable
from .spectral import SpectralOperator


def _cubic(x: Tensor) -> Tensor:
    x = x.abs()
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


#: name to (filter, support): the filter as a function of the distance in new pixels, 0 beyond the support
FILTERS = {
    "bicubic": (_cubic, 2.0),
    "box": (lambda x: ((x > -0.5) & (x <= 0.5)).double(), 0.5),
    "gaussian": (lambda x: torch.exp(-2 * x**2), 2.0),
    "lanczos": (lambda x: torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0), 3.0),
}


def resampling(n: int, m: int, kernel: str) -> Tensor:
    """The matrix `m n` (float64) that resamples a line of n pixels to m, m <= n."""
    function, support = FILTERS[kernel]
    scale = n / m
    centre = (torch.arange(m, dtype=torch.float64)[:, None] + 0.5) * scale
    pixel = torch.arange(n, dtype=torch.float64)
    inside = (pixel >= (centre - support * scale + 0.5).floor()) & (pixel < (centre + support * scale + 0.5).floor())
    weight = function((pixel + 0.5 - centre) / scale) * inside
    return weight / weight.sum(1, keepdim=True)


def require_factor(factor: int, image_shape: tuple[int, int, int]) -> None:
    _, height, width = image_shape
    if height % factor or width % factor:
        raise Refusal(
            f"A {width} x {height} picture cannot be made {factor} times smaller evenly; choose a factor that divides "
            "both sides, or crop the picture."
        )


class Downscale(Separable):
    """y is x made `factor` times smaller.

    Args:
        factor: >= 2, divides both sides of the picture.
        kernel: one of `FILTERS`.
    """

    label = "Downscale"

    def __init__(self, factor: int, kernel: str = "bicubic"):
        super().__init__()
        self.factor, self.kernel = factor, kernel

    def image_shape(self, measurement_shape: tuple[int, ...]) -> tuple[int, int, int]:
        _, channels, height, width = measurement_shape
        return channels, height * self.factor, width * self.factor

    def measurement_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        channels, height, width = image_shape
        return channels, height // self.factor, width // self.factor

    def check(self, image_shape: tuple[int, int, int]) -> None:
        require_factor(self.factor, image_shape)

    def matrix(self, n: int, dim: int) -> Tensor:
        return resampling(n, n // self.factor, self.kernel)


class Resize(Separable):
    """y is x made smaller, from one given size to another.

    Args:
        large: (H, W) of x.
        small: (h, w) of y.
        kernel: one of `FILTERS`.

    Raises:
        Refusal: when the small picture is not smaller.
    """

    label = "Downscale"

    def __init__(self, large: tuple[int, int], small: tuple[int, int], kernel: str = "bicubic"):
        super().__init__()
        if small[0] > large[0] or small[1] > large[1]:
            raise Refusal(
                f"The picture is {small[1]} x {small[0]} and the wanted size {large[1]} x {large[0]}; "
                "give a size that is at least as large in both directions."
            )
        self.large, self.small, self.kernel = large, small, kernel

    def image_shape(self, measurement_shape: tuple[int, ...]) -> tuple[int, int, int]:
        if tuple(measurement_shape[2:]) != self.small:
            raise Refusal(
                f"The small picture is {measurement_shape[3]} x {measurement_shape[2]} here and "
                f"{self.small[1]} x {self.small[0]} in the operator; connect the same picture to both."
            )
        return measurement_shape[1], *self.large

    def measurement_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        return image_shape[0], *self.small

    def check(self, image_shape: tuple[int, int, int]) -> None:
        if tuple(image_shape[1:]) != self.large:
            raise Refusal(
                f"The picture is {image_shape[2]} x {image_shape[1]} and the operator starts from "
                f"{self.large[1]} x {self.large[0]}; make both the same size."
            )

    def matrix(self, n: int, dim: int) -> Tensor:
        return resampling(n, self.small[dim], self.kernel)


class BoxDownscale(SpectralOperator):
    """y is the mean over blocks of f x f pixels.

    A A^T = I / f^2, so every singular value is 1 / f; in each block V is a reflection that turns the constant vector
    into the first unit vector.

    Args:
        factor: f >= 2, divides both sides of the picture.
    """

    label = "Downscale"
    aligned = True
    image_shape = Downscale.image_shape
    measurement_shape = Downscale.measurement_shape
    check = Downscale.check

    def __init__(self, factor: int):
        self.factor = factor

    def _constant(self, like: Tensor) -> Tensor:
        return like.new_full((self.factor**2,), 1 / self.factor)

    def singular_values(self, image: Tensor) -> Tensor:
        s = image.new_zeros(self.factor**2)
        s[0] = 1 / self.factor
        return s

    def to_spectrum(self, x: Tensor) -> Tensor:
        blocks = rearrange(x, "b c (h i) (w j) -> b c h w (i j)", i=self.factor, j=self.factor)
        return reflect(blocks, self._constant(x))

    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        blocks = reflect(c, self._constant(c))
        return rearrange(blocks, "b c h w (i j) -> b c (h i) (w j)", i=self.factor, j=self.factor)

    def measurement_to_spectrum(self, y: Tensor) -> Tensor:
        return torch.nn.functional.pad(y[..., None], (0, self.factor**2 - 1))

    def measurement_from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return c[..., 0]

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y) / self.factor**2

    def pinv(self, y: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(y, scale_factor=self.factor, mode="nearest")


def downscale(factor: int, kernel: str = "bicubic") -> SpectralOperator:
    """The operator that makes a picture `factor` times smaller.

    Raises:
        Refusal: when the factor is below 2.
    """
    if factor < 2:
        raise Refusal(f"The factor is {factor}; give 2 or more.")
    return BoxDownscale(factor) if kernel == "box" else Downscale(factor, kernel)
