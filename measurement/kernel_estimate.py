"""The kernel of a blur of any shape, such as the path of a hand that trembled, from the picture alone.

y = k * x + noise has a solution for every k, no blur among them. What tells them apart is that sharp pictures have few
edges: with the number of pixels where x has a gradient as its price,

    min norm(k * x - y)^2 + lambda norm(grad x)_0 + gamma norm(k)^2,    k >= 0, sum k = 1

(Xu, Zheng and Jia 2013, https://doi.org/10.1109/CVPR.2013.147; Pan et al. 2014, https://doi.org/10.1109/CVPR.2014.371).
Its x looks like a poster, not a photo, and serves for finding k only. In turn, from small pictures to large ones:

    x   half-quadratic splitting: gradients g of x whose square is below lambda / beta become 0, then x is solved for
        given g in Fourier space, with beta doubled each time
    k   least squares of the gradients on the simplex, by accelerated projected gradients; what is below a twentieth of
        its largest value becomes 0

With more room than it needs a kernel ends as a wrong one, with less it cannot be right, but the spectrum tells: of
several widths that kernel is taken whose evidence is the highest (`blur_estimate.log_likelihood`). By how much that is
above the evidence for no blur says whether the picture was large and rich enough, see `CLEAR`.

Beyond the border the picture is mirrored and fades away, so that it is periodic; the kernel is asked to explain only
what was seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..algebra.checkpoint import checkpoint
from ..algebra.devices import require_complex
from ..algebra.refusal import Refusal
from ..algebra.simplex import least_on_simplex, moved, off_centre, steps
from ..operators.base import Operator
from ..operators.convolution import Mirror, convolution
from ..operators.identity import Identity
from .blur_estimate import SMALLEST, log_likelihood

#: lambda at first, its factor from turn to turn, and its least; squares of image units
EDGES, FALL, LEAST_EDGES = 4e-3, 1 / 1.1, 1e-4
#: beta at last; gamma
SPLIT, SPREAD = 1e5, 8.0
#: turns of each size, and steps of a kernel in each turn
TURNS, STEPS = 5, 15
#: how many widths are tried, each the root of 2 smaller than the one before
WIDTHS = 3
#: share of a kernel's largest value below which it is none
FAINT = 0.05
#: side of a picture of which only the middle is read, where it is larger
LARGEST = 512
#: nats from which a kernel that was found is believed. Of 17 training photographs (128 pixels, paths of 7 to 13, noise
#: of 0, 0.01 and 0.02) 14 had more, and a restoration with that kernel gained 2.9 dB in the mean (-0.8 to 11.5), with
#: one found by `samplers.blind` 0.3; the other three lost 7.0 and 5.3 and gained 0.7 dB, by `samplers.blind` -0.4
CLEAR = 60.0
#: deviation of what a found kernel puts wrong, image units, which is noise for all that follows: on seven of these
#: photos *Solve* gains 1.4 dB without it, 3.3 with it, and as much with 0.03
DOUBT = 0.02


@dataclass(frozen=True)
class Shake:
    """What was found.

    Args:
        kernel: `1 1 n n`, not negative, of sum 1; n odd.
        nats: by which the spectrum of the picture speaks for it, and not for no blur.
    """

    kernel: Tensor
    nats: float

    @property
    def clear(self) -> bool:
        return self.nats > CLEAR

    @property
    def operator(self) -> Operator:
        """The blur, with mirrored borders."""
        return convolution(self.kernel)

    def __str__(self) -> str:
        rows, columns = (int((self.kernel.sum(dim)[0, 0] > 0).sum()) for dim in (-1, -2))
        return f"a blur of any shape, {columns} x {rows} pixels"


def estimate_kernel(picture: Tensor, size: int) -> Shake:
    """The kernel that blurred a picture, or several, its centre of mass in the middle.

    Args:
        picture: `B C H W` in [0, 1], all blurred alike, at least 64 x 64.
        size: how wide the kernel is at most, pixels; odd, from 3 to half of the shorter side.

    Raises:
        Refusal: for small pictures, for wide kernels, and where there are no complex numbers.
    """
    least = max(SMALLEST, 2 * size)
    if min(picture.shape[-2:]) < least:
        raise Refusal(
            f"The picture is {picture.shape[-1]} x {picture.shape[-2]}; to find a blur of {size} pixels takes at least "
            f"{least} x {least}."
        )
    require_complex(picture.device, "Finding a kernel")
    top, left = (max(0, side - LARGEST) // 2 for side in picture.shape[-2:])
    seen = picture[..., top : top + LARGEST, left : left + LARGEST].float()
    widths = pyramid(size)[-WIDTHS:]
    kernels = []
    for width in widths:
        kernels.append(_of_width(seen.mean(1, keepdim=True), width))
        checkpoint(len(kernels) / len(widths))
    seen = seen.cpu()
    evidence, best = max((log_likelihood(seen, convolution(kernel.cpu())), turn) for turn, kernel in enumerate(kernels))
    return Shake(kernels[best], evidence - log_likelihood(seen, Identity()))


def pyramid(size: int) -> list[int]:
    """Sides of kernels, odd, from 3 to `size`, each by about the root of 2 larger than the one before."""
    sizes = [size]
    while sizes[-1] > 3:
        smaller = int(sizes[-1] / math.sqrt(2)) // 2 * 2 + 1
        sizes.append(max(3, min(smaller, sizes[-1] - 2)))
    return sizes[::-1]


def _of_width(grey: Tensor, size: int) -> Tensor:
    """The kernel of one width."""
    kernel, edges = grey.new_tensor([[[[0.0] * 3, [0.0, 0.5, 0.5], [0.0] * 3]]]), EDGES
    for n in pyramid(size):
        shape = [round(side * n / size) for side in grey.shape[-2:]]
        level = Level(F.interpolate(grey, shape, mode="bilinear", antialias=True), n)
        kernel = F.interpolate(kernel, (n, n), mode="bicubic").clamp_min(0)
        kernel = centred(kernel / kernel.sum())
        for _ in range(TURNS):
            kernel, edges = level.kernel(level.poster(kernel, edges), kernel), max(edges * FALL, LEAST_EDGES)
            checkpoint()
    return centred(kernel)


def centred(kernel: Tensor) -> Tensor:
    """Moved by whole pixels, its centre of mass in the middle."""
    kernel = moved(kernel, off_centre(kernel), 1, black=True)
    return kernel / kernel.sum()


class Level:
    """Pictures of one size, and their kernel.

    Args:
        y: `B 1 h w`.
        size: n, of the kernel.
    """

    def __init__(self, y: Tensor, size: int):
        self.size = size
        wider = Mirror(size, size).forward(y)
        self.shape = tuple(wider.shape[-2:])
        fade = [_fade(side, size).to(y) for side in self.shape]
        mean = y.mean((2, 3), keepdim=True)
        self.y = mean + (wider - mean) * fade[0][:, None] * fade[1]
        self._seen = F.pad(torch.ones_like(y[:1, :, 1:, 1:]), (size, size + 1, size, size + 1))
        self._spectrum, self._gradients = torch.fft.rfft2(self.y), self._seen * steps(self.y)
        self._curvature = sum(
            (2 - 2 * torch.cos(2 * math.pi * torch.fft.fftfreq(side, device=y.device))).view(-1, *[1] * (-1 - dim))
            for dim, side in zip((-2, -1), self.shape, strict=True)
        )[:, : self.shape[1] // 2 + 1]

    def poster(self, kernel: Tensor, edges: float) -> Tensor:
        """x for a kernel and a lambda."""
        blur, x, split = self._laid(kernel), self.y, 2 * edges
        pulled, power = blur.conj() * self._spectrum, blur.abs().square()
        while split < SPLIT:
            down, right = steps(x).chunk(2, 1)
            keep = down.square() + right.square() >= edges / split
            down, right = keep * down, keep * right
            back = down.roll(1, -2) - down + right.roll(1, -1) - right
            x = self._picture((pulled + split * torch.fft.rfft2(back)) / (power + split * self._curvature))
            split *= 2
        return x

    def kernel(self, x: Tensor, start: Tensor) -> Tensor:
        """k for an x, from the one before."""
        spectrum = torch.fft.rfft2(steps(x))

        def slope(k: Tensor) -> Tensor:
            off = self._seen * self._picture(self._laid(k) * spectrum) - self._gradients
            pulled = (spectrum.conj() * torch.fft.rfft2(off)).sum((0, 1), keepdim=True)
            return self._cut(self._picture(pulled)) + SPREAD * k

        curvature = spectrum.abs().square().sum((0, 1)).amax().view(1) + SPREAD
        k = least_on_simplex(slope, curvature, start, STEPS)
        k = torch.where(k < FAINT * k.max(), 0.0, k)
        return k / k.sum()

    def _laid(self, k: Tensor) -> Tensor:
        """k_hat."""
        (h, w), r = self.shape, self.size // 2
        return torch.fft.rfft2(F.pad(k, (0, w - self.size, 0, h - self.size)).roll((-r, -r), (-2, -1)))

    def _cut(self, x: Tensor) -> Tensor:
        """What a kernel covers, about the origin."""
        return x.roll((self.size // 2, self.size // 2), (-2, -1))[..., : self.size, : self.size]

    def _picture(self, c: Tensor) -> Tensor:
        return torch.fft.irfft2(c, s=self.shape)


def _fade(side: int, border: int) -> Tensor:
    """From 0 to 1 over a border, 1 in the middle, and back."""
    place = torch.arange(side) + 0.5
    return torch.sin(math.pi / 2 * (torch.minimum(place, side - place) / border).clamp(max=1)).square()
