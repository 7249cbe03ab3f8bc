"""JPEG compression (ITU-T T.81, https://www.w3.org/Graphics/JPEG/itu-t81.pdf): decode(encode(x)), differentiable.

The chain is that of libjpeg, whose pictures Pillow writes and reads: 8-bit rounding, YCbCr (JFIF), chroma averaged over
2 x 2 pixels (4:2:0) or 2 x 1 (4:2:2) or kept (4:4:4), blocks of 8 x 8, DCT, division by the quantisation table,
rounding, and back, with libjpeg's triangle filter for the chroma. A picture that was cut since, or turned as its EXIF
tag says, has its blocks elsewhere. The gradient passes straight through every rounding, so what remains of it is the
true derivative of a linear chain that blurs the chroma. The coded picture is its own generalised inverse:
decode(encode(y)) is y up to 8-bit rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, pad

from ..algebra.moved import moved
from ..algebra.refusal import Refusal
from ..algebra.transforms import wide
from .base import Operator
from .pointwise import cut, straight_through

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
#: JFIF's, in libjpeg's 2^-16: with whole numbers of 8 bits every sum is exact in float32, on any machine
TO_YCBCR, TO_RGB = (
    tuple(tuple(n / 65536 for n in row) for row in rows)
    for rows in (
        ((19595, 38470, 7471), (-11059, -21709, 32768), (32768, -27439, -5329)),
        ((65536, 0, 91881), (65536, -22554, -46802), (65536, 116130, 0)),
    )
)
#: colour differences that lie between two levels are rounded down, brightness up
CENTRE = (0.5, 128.5 - 1 / 65536, 128.5 - 1 / 65536)


def quantisation_table(base: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """libjpeg's scaling: floor((base s + 50) / 100) in [1, 255], s = 5000 / quality below 50, else 200 - 2 quality."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(base) * scale + 50) // 100).clamp(1, 255).double()


#: standard deviation of brightness and of a colour difference in a block of a photograph that something is written over
LUMA, CHROMA = 0.2, 0.04
#: how far the colour differences of what is written may be from those of the picture
COLOUR = 0.15
#: EXIF orientation to (transposed, axes flipped after that): what turns the file's rows and columns into the picture
ORIENTATIONS = {
    1: (False, ()), 2: (False, (-1,)), 3: (False, (-2, -1)), 4: (False, (-2,)),
    5: (True, ()), 6: (True, (-1,)), 7: (True, (-2, -1)), 8: (True, (-2,)),
}  # fmt: skip


def dct() -> Tensor:
    """DCT-II of eight samples, orthonormal, a row per frequency, `8 8`."""
    k = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    return basis


class JPEG(Operator):
    """y = decode(encode(x)), `B C H W` with C = 3 or 1, any size.

    Args:
        quality: 1 (worst) to 100, of libjpeg's own tables.
        subsampling: "4:2:0" (chroma at half size, the usual choice), "4:2:2" (half as wide) or "4:4:4".
        tables: quantisation tables of luminance and chrominance in place of those of the quality, 64 numbers from 1
            each, row by row as Pillow gives them; one serves for both.
        offset: (x, y), columns and rows that were cut off at the left and the top since, before the picture was turned.
        orientation: the EXIF tag by which the picture has been turned since, 1 (not) to 8.

    Raises:
        Refusal: when the quality is not in 1 ... 100, or the tables are none.
    """

    label = "JPEG"
    saves = True
    #: name to the (rows, columns) of pixels for one of chroma
    SUBSAMPLINGS = {"4:2:0": (2, 2), "4:4:4": (1, 1), "4:2:2": (1, 2)}

    def __init__(
        self,
        quality: int = 20,
        subsampling: str = "4:2:0",
        tables: Sequence[Sequence[int]] | None = None,
        offset: tuple[int, int] = (0, 0),
        orientation: int = 1,
    ):
        if not 1 <= quality <= 100:
            raise Refusal(f"The JPEG quality is {quality}; give a number from 1 to 100.")
        self.ratio = self.SUBSAMPLINGS[subsampling]
        self.offset, self.orientation = (offset[0] % 16, offset[1] % 16), orientation
        if tables is None:
            self.luminance = quantisation_table(LUMINANCE, quality)
            self.chrominance = quantisation_table(CHROMINANCE, quality)
        else:
            if not 1 <= len(tables) <= 4 or any(len(table) != 64 or min(table) < 1 for table in tables):
                raise Refusal("These are no JPEG quantisation tables; give one or two of 64 numbers from 1 upwards.")
            first, second = tables[0], tables[min(1, len(tables) - 1)]
            self.luminance = torch.tensor(first, dtype=torch.float64).reshape(8, 8)
            self.chrominance = torch.tensor(second, dtype=torch.float64).reshape(8, 8)
        basis = torch.kron(dct(), dct())  # of a block, its pixels row by row
        self.coders = [Blocks(basis, table.flatten()) for table in (self.luminance, self.chrominance)]
        self.to_ycbcr = torch.tensor(TO_YCBCR, dtype=torch.float64)
        self.to_rgb = torch.tensor(TO_RGB, dtype=torch.float64)
        self.centre = torch.tensor(CENTRE, dtype=torch.float64)[:, None, None]

    def check(self, image_shape: tuple[int, int, int]) -> None:
        if image_shape[0] not in (1, 3):
            raise Refusal(f"JPEG needs one or three colours, not {image_shape[0]}; give red, green and blue.")

    def _laid(self, x: Tensor) -> Tensor:
        """The picture as the file has it; what was cut off goes on as the first row and column."""
        transposed, flipped = ORIENTATIONS[self.orientation]
        x = x.flip(flipped) if flipped else x
        x = x.mT if transposed else x
        return widened(x, (self.offset[0], 0, self.offset[1], 0))

    def _shown(self, file: Tensor) -> Tensor:
        """The inverse of `_laid`."""
        transposed, flipped = ORIENTATIONS[self.orientation]
        x = file[..., self.offset[1] :, self.offset[0] :] if any(self.offset) else file
        x = x.mT if transposed else x
        return x.flip(flipped) if flipped else x

    def forward(self, x: Tensor) -> Tensor:
        x, kind = self._laid(wide(x)), x.dtype
        exact = 255 * cut(x, x, 0, 1)
        pixels = straight_through((exact + 0.5).floor(), exact)
        luminance, chrominance = self.coders
        if x.shape[1] == 1:
            return self._shown(luminance(pixels) / 255).to(kind)
        centre = self.centre.to(pixels)
        exact = mixed(self.to_ycbcr, pixels)
        luma, chroma = cut((exact + centre).floor(), exact, 0, 255).split([1, 2], 1)
        luma = luminance(luma)
        chroma = enlarge(chrominance(reduce(chroma, self.ratio)), self.ratio)
        exact = mixed(self.to_rgb, torch.cat([luma, whole(chroma, luma) - 128], 1))
        return self._shown(cut((exact + 0.5).floor(), exact, 0, 255) / 255).to(kind)

    def reach(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """The rest of a block that holds hidden pixels is what it was, but for `rounding`, which A(x), not knowing what
        is hidden, cannot repeat, and but for the colour of what is hidden where they share a sample of chroma."""
        file, (rows, columns) = self._laid(hidden.float()), self.ratio
        h, w = file.shape[-2:]
        share = (enlarge(reduce(255 * file, self.ratio), self.ratio) / 255)[..., :h, :w]  # of it in the chroma
        margin = (rows // 2, columns // 2)  # which the triangle filter mixes beyond a block, pixels
        blocks = _whole(file, (8 * rows, 8 * columns))
        blocks = max_pool2d(blocks, (2 * margin[0] + 1, 2 * margin[1] + 1), 1, margin)
        mixing = self.to_rgb[:, 1:].square().sum(1).mean()  # of the two in red, green and blue
        chroma = rounding(self.chrominance, CHROMA) * blocks + (COLOUR * share) ** 2
        variance = rounding(self.luminance, LUMA) * _whole(file, (8, 8)) + mixing * chroma
        return hidden, self._shown(variance.sqrt().to(file))

    def pinv(self, y: Tensor) -> Tensor:
        return y


def rounding(table: Tensor, deviation: float) -> Tensor:
    """Variance that the steps q of a table leave in a pixel, image units.

    A coefficient's error has the variance q^2 / 12, but not more than the coefficient itself, which would be rounded to
    0. Its own is that of pictures whose power falls with the square of the frequency (Field 1987,
    https://doi.org/10.1364/JOSAA.4.002379). The DCT is orthonormal, so a pixel has their mean.

    Args:
        deviation: standard deviation of the plane's pixels in a block, image units.
    """
    k = torch.arange(8, dtype=torch.float64)
    power = 1 / (k[:, None] ** 2 + k**2).clamp_min(0.5)
    power = power * 64 * (255 * deviation) ** 2 / power.sum()
    return (table.square() / 12).minimum(power).mean() / 255**2


def _whole(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """1 in each block of so many rows and columns that holds a 1."""
    blocks = max_pool2d(mask, size, ceil_mode=True)
    blocks = blocks.repeat_interleave(size[0], -2).repeat_interleave(size[1], -1)
    return blocks[..., : mask.shape[-2], : mask.shape[-1]]


class Blocks:
    """Planes in [0, 255], `B C H W`, through their blocks of 8 x 8; incomplete ones go on with the last row and column.

    The gradient passes straight through, but not where a pixel is cut off.

    Args:
        basis: the transform of a block, `64 64`, orthonormal.
        table: the steps of the 64 coefficients.
    """

    def __init__(self, basis: Tensor, table: Tensor):
        self.encode, self.decode = (basis / table[:, None]).T, basis * table[:, None]
        self.shift = -128 * self.encode.sum(0)
        self.half = 0.5 + 1 / (16 * table)  # to round away from 0, from eighths of a coefficient as libjpeg does

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Blocks:
        return moved(self, device, dtype)

    def __call__(self, plane: Tensor) -> Tensor:
        return cut(self._through(plane.detach()), plane, 0, 255)

    def _through(self, plane: Tensor) -> Tensor:
        full = widened(plane, (0, -plane.shape[-1] % 8, 0, -plane.shape[-2] % 8))
        h, w = (n // 8 for n in full.shape[-2:])
        blocks = rearrange(full, "b c (h i) (w j) -> (b c h w) (i j)", i=8, j=8)
        exact = torch.addmm(self.shift.to(plane), blocks, self.encode.to(plane))
        levels = self.half.to(plane).copysign(exact).add_(exact).trunc_()
        blocks = (levels @ self.decode.to(plane)).add_(128.5 + 2**-10).floor_()  # a half rounds up in any arithmetic
        return whole(rearrange(blocks, "(b c h w) (i j) -> b c (h i) (w j)", c=plane.shape[1], h=h, w=w, i=8), plane)


def mixed(matrix: Tensor, planes: Tensor) -> Tensor:
    """matrix times the colours of each pixel, `B C H W`."""
    return (matrix.to(planes) @ planes.flatten(2)).unflatten(2, planes.shape[2:])


def widened(plane: Tensor, border: tuple[int, int, int, int]) -> Tensor:
    """With the first and last column and row repeated: so often left, right, above and below."""
    return pad(plane, border, mode="replicate") if any(border) else plane


def whole(plane: Tensor, like: Tensor) -> Tensor:
    """Without what was added below and at the right."""
    return plane if plane.shape[-2:] == like.shape[-2:] else plane[..., : like.shape[-2], : like.shape[-1]]


def _dithered(mean: Tensor, even: float, odd: float) -> Tensor:
    """Rounded down after an offset for the even columns and one for the odd, with the gradient of the mean."""
    rounded = mean.detach() + even
    rounded[..., 1::2] += odd - even
    return straight_through(rounded.floor_(), mean)


def reduce(plane: Tensor, ratio: tuple[int, int]) -> Tensor:
    """Means of so many rows and columns, rounded down and up in turn along a row, as libjpeg does; sides that do not
    divide go on by one."""
    if ratio == (1, 1):
        return plane
    plane = widened(plane, (0, plane.shape[-1] % ratio[1], 0, plane.shape[-2] % ratio[0]))
    return _dithered(avg_pool2d(plane, ratio), 0.25 if ratio == (2, 2) else 0.0, 0.5)


class _Triangle(torch.autograd.Function):
    """Enlarged by the triangle filter, 3/4 of the nearer sample and 1/4 of the next; the last is its own next.

    The transpose, (1 3 3 1) / 4 of every other sample, is the mean of two thrice over. torch's own adds up in an order
    that is another each time on a card.
    """

    @staticmethod
    def forward(ctx, plane: Tensor, ratio: tuple[int, int]) -> Tensor:
        ctx.ratio = ratio
        return interpolate(plane, scale_factor=ratio, mode="bilinear")

    @staticmethod
    def backward(ctx, v: Tensor) -> tuple[Tensor, None]:
        (rows, columns) = ratio = ctx.ratio
        v = pad(v, (columns - 1, columns - 1, rows - 1, rows - 1), mode="replicate")
        for stride in (1, 1, ratio):
            v = avg_pool2d(v, ratio, stride)
        return rows * columns * v, None

    @staticmethod
    def jvp(ctx, d: Tensor, _) -> Tensor:
        return interpolate(d, scale_factor=ctx.ratio, mode="bilinear")


def enlarge(plane: Tensor, ratio: tuple[int, int]) -> Tensor:
    """Enlarged by libjpeg's triangle filter."""
    if ratio == (1, 1):
        return plane
    even, odd = (1 / 2, 7 / 16) if ratio == (2, 2) else (1 / 4, 1 / 2)
    return _dithered(_Triangle.apply(plane, ratio), even, odd)
