"""What happens to each pixel of a picture on its own and is not linear."""

from __future__ import annotations

import torch
from torch import Tensor

from ..algebra.cache import Cache
from ..algebra.checkpoint import checkpoint
from ..algebra.refusal import Refusal
from .base import Operator

DITHERS = ("none", "ordered", "random")


class Saturation(Operator):
    """y = clip(p + g (x - p), 0, 1): too bright or too much contrast, cut where the sensor ends.

    With p = 0 it is overexposure; p = 1/2 cuts both ends, the high dynamic range problem of the literature. The
    generalised inverse p + (y - p) / g is right wherever nothing was cut.

    Args:
        gain: g > 0; 2 is one stop too much light.
        pivot: p, the value that stays, in [0, 1].

    Raises:
        Refusal: when the gain is not positive.
    """

    label = "Overexposure"

    def __init__(self, gain: float = 2.0, pivot: float = 0.0):
        if not gain > 0:
            raise Refusal(f"The gain is {gain:g}; give a number above 0.")
        self.gain, self.pivot = gain, pivot

    def forward(self, x: Tensor) -> Tensor:
        return (self.pivot + self.gain * (x - self.pivot)).clamp(0, 1)

    def pinv(self, y: Tensor) -> Tensor:
        return self.pivot + (y - self.pivot) / self.gain


class Gamma(Operator):
    """y = x^g on [0, 1]; the inverse is y^(1/g).

    Args:
        gamma: g > 0; above 1 darkens the middle tones, below 1 brightens them. One for each picture as `B 1 1 1`.

    Raises:
        Refusal: when g is not positive.
    """

    label = "Gamma"
    #: values below this, a thousandth of an 8-bit step, count as it: the slope of a power is infinite at 0
    DARKEST = 1e-3 / 255

    def __init__(self, gamma: float | Tensor = 2.2):
        if not torch.as_tensor(gamma > 0).all():
            raise Refusal(f"Gamma is {torch.as_tensor(gamma).min().item():g}; give a number above 0.")
        self.gamma = gamma

    @property
    def batch(self) -> int:
        return len(self.gamma) if isinstance(self.gamma, Tensor) and self.gamma.ndim else 1

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.DARKEST, 1) ** self.gamma

    def pinv(self, y: Tensor) -> Tensor:
        return y.clamp_min(self.DARKEST**self.gamma).clamp_max(1) ** (1 / self.gamma)


class _Through(torch.autograd.Function):
    """Values with the gradient of others, where `open`."""

    @staticmethod
    def forward(ctx, values: Tensor, x: Tensor, open: Tensor | None) -> Tensor:
        ctx.open = open
        return values.view_as(values)

    @staticmethod
    def backward(ctx, v: Tensor) -> tuple[None, Tensor, None]:
        return None, v if ctx.open is None else v * ctx.open, None

    @staticmethod
    def jvp(ctx, _, dx: Tensor, __) -> Tensor:
        return dx.clone() if ctx.open is None else dx * ctx.open


def straight_through(rounded: Tensor, x: Tensor) -> Tensor:
    """The value of `rounded` with the gradient of x (Bengio, Leonard and Courville 2013,
    https://arxiv.org/abs/1308.3432): rounding has slope 0 almost everywhere, which says nothing."""
    return _Through.apply(rounded.detach(), x, None)


def cut(rounded: Tensor, x: Tensor, lowest: float, highest: float) -> Tensor:
    """`rounded`, cut to a range, with the gradient of x where nothing was cut off."""
    rounded = rounded.detach()
    inside = rounded.clamp(lowest, highest)
    return _Through.apply(inside, x, inside == rounded)


class Quantisation(Operator):
    """y = floor(x (L - 1) + d) / (L - 1): L levels per colour. The gradient passes straight through the rounding.

    The offset d is 1/2 for plain rounding, Bayer's 8 x 8 thresholds for ordered dithering (1973, ICC, 26-11), or
    uniform noise; in every case a picture of the L levels is not changed again, so y is its own generalised inverse.

    Args:
        levels: L, 2 to 256.
        dither: one of `DITHERS`.
        seed: of the random dither.

    Raises:
        Refusal: when there are fewer than two levels.
    """

    label = "Fewer colours"

    def __init__(self, levels: int = 4, dither: str = "none", seed: int = 0):
        if levels < 2:
            raise Refusal(f"There are {levels} levels per colour; give 2 or more.")
        self.levels, self.dither, self.seed = levels, dither, seed
        self._cache = Cache()

    def _offset(self, x: Tensor) -> Tensor | float:
        if self.dither == "none":
            return 0.5
        return self._cache.get((*x.shape[1:], x.dtype, x.device), lambda: self._thresholds(x))

    def _thresholds(self, x: Tensor) -> Tensor:
        if self.dither == "random":
            generator = torch.Generator().manual_seed(self.seed)
            return (0.998 * torch.rand(x.shape[1:], generator=generator) + 0.001).to(x)
        h, w = x.shape[-2:]
        return bayer_thresholds(3).to(x).repeat(-(-h // 8), -(-w // 8))[:h, :w]

    def forward(self, x: Tensor) -> Tensor:
        top = self.levels - 1
        x = x.clamp(0, 1)
        return straight_through((x * top + self._offset(x)).floor() / top, x)

    def pinv(self, y: Tensor) -> Tensor:
        return y


class Palette(Operator):
    """y is the nearest of K colours at each pixel, as in a GIF. The gradient passes straight through the choice.

    A picture of the palette's colours is not changed again, so y is its own generalised inverse.

    Args:
        colours: `K C`, in [0, 1].
    """

    label = "Palette"
    #: distances that are held at once
    MOST = 1 << 20

    def __init__(self, colours: Tensor):
        self.colours = colours

    @classmethod
    def of(cls, image: Tensor, most: int = 256) -> Palette:
        """The palette of a picture, `B C H W`, whose colours are counted in steps of 8 bits.

        Raises:
            Refusal: when it has more than `most` colours.
        """
        colours = (image.movedim(1, -1).flatten(0, 2) * 255).round().unique(dim=0) / 255
        if len(colours) > most:
            raise Refusal(
                f"The picture has {len(colours)} colours and a palette at most {most}; give a GIF or an 8-bit PNG."
            )
        return cls(colours)

    @torch.no_grad()
    def nearest(self, x: Tensor) -> Tensor:
        """Which colour is nearest to each pixel, `B H W`."""
        colours = self.colours.to(x)
        # norm(x - p)^2 without norm(x)^2, which is the same for all p; some pixels at a time, to save memory
        squares, pixels = colours.square().sum(1), x.movedim(1, -1).flatten(0, 2)
        bands = pixels.split(max(self.MOST // len(colours), 1))
        found = []
        for band in bands:
            checkpoint()
            found.append(torch.addmm(squares, band, colours.mT, alpha=-2).argmin(1))
        return torch.cat(found).view(len(x), *x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        return straight_through(self.colours.to(x)[self.nearest(x)].movedim(-1, 1), x)

    def pinv(self, y: Tensor) -> Tensor:
        return y


def bayer_thresholds(order: int) -> Tensor:
    """Bayer's ordered-dither matrix of side 2^order, values (k + 1/2) / 4^order in (0, 1)."""
    matrix = torch.zeros(1, 1, dtype=torch.float64)
    for _ in range(order):
        matrix = torch.cat([torch.cat([4 * matrix, 4 * matrix + 2], 1), torch.cat([4 * matrix + 3, 4 * matrix + 1], 1)])
    return (matrix + 0.5) / 4**order
