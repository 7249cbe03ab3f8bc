"""JPEG compression (ITU-T T.81, https://www.w3.org/Graphics/JPEG/itu-t81.pdf): decode(encode(x)), differentiable.

The chain is that of libjpeg, whose pictures Pillow writes and reads: 8-bit rounding, YCbCr (JFIF), chroma averaged over
2 x 2 pixels (4:2:0) or kept (4:4:4), blocks of 8 x 8, DCT, division by the quantisation table, rounding, and back, with
libjpeg's triangle filter for the chroma. The gradient passes straight through every rounding, so what remains of it is
the true derivative of a linear chain that blurs the chroma. The coded picture is its own generalised inverse:
decode(encode(y)) is y up to 8-bit rounding.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from ..algebra.refusal import Refusal
from ..algebra.transforms import wide
from .base import Operator
from .pointwise import straight_through

#: annex K.1, at quality 50; rows by vertical frequency
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))


def quantisation_table(base: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """libjpeg's scaling: floor((base s + 50) / 100) in [1, 255], s = 5000 / quality below 50, else 200 - 2 quality."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(base) * scale + 50) // 100).clamp(1, 255).double()


def _round(x: Tensor) -> Tensor:
    return straight_through((x + 0.5).floor(), x)


class JPEG(Operator):
    """y = decode(encode(x)), `B C H W` with C = 3 or 1, any size.

    Args:
        quality: 1 (worst) to 100.
        subsampling: "4:2:0" (chroma at half size, the usual choice) or "4:4:4".

    Raises:
        Refusal: when the quality is not in 1 ... 100.
    """

    label = "JPEG"
    SUBSAMPLINGS = ("4:2:0", "4:4:4")

    def __init__(self, quality: int = 20, subsampling: str = "4:2:0"):
        if not 1 <= quality <= 100:
            raise Refusal(f"The JPEG quality is {quality}; give a number from 1 to 100.")
        self.quality, self.halved = quality, subsampling == "4:2:0"
        self.luminance = quantisation_table(LUMINANCE, quality)
        self.chrominance = quantisation_table(CHROMINANCE, quality)
        k = torch.arange(8, dtype=torch.float64)
        basis = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) / 2
        basis[0] /= math.sqrt(2)
        self.basis = basis  # DCT-II of eight samples, a row per frequency
        self.to_ycbcr = torch.tensor(TO_YCBCR, dtype=torch.float64)
        self.to_rgb = torch.tensor(TO_RGB, dtype=torch.float64)

    def check(self, image_shape: tuple[int, int, int]) -> None:
        if image_shape[0] not in (1, 3):
            raise Refusal(f"JPEG needs one or three colours, not {image_shape[0]}; give red, green and blue.")

    def _code(self, plane: Tensor, table: Tensor) -> Tensor:
        """One plane, `B C H W` in [0, 255], through its blocks; incomplete ones go on with the last row and column."""
        h, w = plane.shape[-2:]
        plane = pad(plane, (0, -w % 8, 0, -h % 8), mode="replicate")
        basis, table = self.basis.to(plane), table.to(plane)
        blocks = rearrange(plane - 128, "b c (h i) (w j) -> b c h w i j", i=8, j=8)
        levels = _round(basis @ blocks @ basis.mT / table)
        blocks = basis.mT @ (levels * table) @ basis
        plane = rearrange(blocks, "b c h w i j -> b c (h i) (w j)")[..., :h, :w]
        return _round(plane + 128).clamp(0, 255)

    def forward(self, x: Tensor) -> Tensor:
        dtype, x = x.dtype, wide(x)
        pixels = _round(255 * x.clamp(0, 1))
        if x.shape[1] == 1:
            return (self._code(pixels, self.luminance) / 255).to(dtype)
        centre = x.new_tensor([0.0, 128.0, 128.0])[:, None, None]
        ycc = _round(torch.einsum("ij,bjhw->bihw", self.to_ycbcr.to(x), pixels) + centre).clamp(0, 255)
        luma, chroma = self._code(ycc[:, :1], self.luminance), ycc[:, 1:]
        if self.halved:
            chroma = enlarge(self._code(halve(chroma), self.chrominance))[..., : x.shape[2], : x.shape[3]]
        else:
            chroma = self._code(chroma, self.chrominance)
        ycc = torch.cat([luma, chroma], 1) - centre
        return (_round(torch.einsum("ij,bjhw->bihw", self.to_rgb.to(x), ycc)).clamp(0, 255) / 255).to(dtype)

    def pinv(self, y: Tensor) -> Tensor:
        return y


def halve(plane: Tensor) -> Tensor:
    """Means of 2 x 2 pixels, rounded down and up in turn along a row, as libjpeg does; odd sides go on by one."""
    plane = pad(plane, (0, plane.shape[-1] % 2, 0, plane.shape[-2] % 2), mode="replicate")
    mean = torch.nn.functional.avg_pool2d(plane, 2)
    bias = torch.full_like(mean[..., :1, :], 0.25)
    bias[..., 1::2] = 0.5
    return straight_through((mean + bias).floor(), mean)


def enlarge(plane: Tensor) -> Tensor:
    """Twice the size by libjpeg's triangle filter: 3/4 of the nearer sample and 1/4 of the next, on both axes."""
    for dim in (-2, -1):
        n = plane.shape[dim]
        before = torch.cat([plane.narrow(dim, 0, 1), plane.narrow(dim, 0, n - 1)], dim)
        after = torch.cat([plane.narrow(dim, 1, n - 1), plane.narrow(dim, n - 1, 1)], dim)
        plane = torch.stack([0.75 * plane + 0.25 * before, 0.75 * plane + 0.25 * after], dim).flatten(dim - 1, dim)
    bias = torch.full_like(plane[..., :1, :], 0.5)
    bias[..., 1::2] = 7 / 16
    return straight_through((plane + bias).floor(), plane)
