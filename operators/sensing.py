"""Compressed sensing: fewer numbers than pixels, each a weighted sum of many pixels (Candes, Romberg and Tao 2006,
https://doi.org/10.1109/TIT.2005.862083)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from ..algebra.cache import Cache
from ..algebra.refusal import Refusal
from ..algebra.transforms import TRANSFORMS
from ..algebra.views import log_picture
from .spectral import SpectralOperator

PATTERNS = ("variable density", "low frequencies", "uniform")


def frequency(h: int, w: int, transform: str) -> Tensor:
    """The distance of each coefficient from the constant one, as a part of the highest frequency of its axis."""

    def axis(n: int) -> Tensor:
        return 2 * torch.fft.fftfreq(n).abs() if transform == "fourier" else torch.arange(n) / n

    return axis(h)[:, None] + axis(w)


def sampling_pattern(h: int, w: int, ratio: float, pattern: str, transform: str, seed: int) -> Tensor:
    """Which of h x w coefficients are measured, 0 or 1: round(ratio h w) of them, the constant one among them.

    They are drawn without replacement with odds proportional to 1 ("uniform") or 1 / frequency^2 ("variable density",
    after Lustig, Donoho and Pauly 2007, https://doi.org/10.1002/mrm.21391) by the Gumbel trick: the largest values of
    log odds + noise. Fourier coefficients come in conjugate pairs, of which both or none are measured.
    """
    distance = frequency(h, w, transform)
    uniform = torch.rand(h, w, generator=torch.Generator().manual_seed(seed)).clamp(1e-7, 1 - 1e-7)
    score = -torch.log(-torch.log(uniform))
    if pattern == "low frequencies":
        score = score * 1e-6 - distance
    elif pattern == "variable density":
        score = score - 2 * torch.log(distance.clamp_min(1 / max(h, w)))
    if transform == "fourier":
        partner = score.flip(0, 1).roll((1, 1), (0, 1))
        score = torch.maximum(score, partner)
    score[0, 0] = torch.inf
    count = min(max(round(ratio * h * w), 1), h * w)
    return (score >= score.flatten().topk(count).values[-1]).float()


class Subsampled(SpectralOperator):
    """y = keep * T x with a fast orthonormal transform T, laid out as T's coefficients, 0 where not measured.

    Args:
        transform: a name in `TRANSFORMS`.
        ratio: share of the coefficients that is measured, in (0, 1].
        pattern: one of `PATTERNS`, which coefficients.
        seed: chooses them.

    Raises:
        Refusal: when the ratio is not in (0, 1].
    """

    label = "Compressed sensing"
    aligned = True
    pictorial = False

    def __init__(self, transform: str, ratio: float, pattern: str = "variable density", seed: int = 0):
        require_ratio(ratio)
        self.transform, self.ratio, self.pattern, self.seed = transform, ratio, pattern, seed
        self._cache = Cache()

    def check(self, image_shape: tuple[int, int, int]) -> None:
        _, h, w = image_shape
        if self.transform == "hadamard" and (h & (h - 1) or w & (w - 1)):
            raise Refusal(
                f"Hadamard patterns need sides that are powers of two and the picture is {w} x {h}; crop or resize it "
                "(256, 512 ...), or choose the dct transform."
            )

    def picture(self, y: Tensor) -> Tensor:
        view = log_picture(y)
        return view.roll((y.shape[-2] // 2, y.shape[-1] // 2), (-2, -1)) if self.transform == "fourier" else view

    def support(self, y: Tensor) -> Tensor:
        return self.singular_values(y).expand(y.shape)

    def singular_values(self, image: Tensor) -> Tensor:
        h, w = image.shape[-2:]

        def make() -> Tensor:
            return sampling_pattern(h, w, self.ratio, self.pattern, self.transform, self.seed).to(image)[None, None]

        return self._cache.get((h, w, image.dtype, image.device), make)

    def to_spectrum(self, x: Tensor) -> Tensor:
        return TRANSFORMS[self.transform].forward(x)

    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return TRANSFORMS[self.transform].inverse(c)

    def measurement_to_spectrum(self, y: Tensor) -> Tensor:
        return self.singular_values(y) * y

    def measurement_from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return self.singular_values(c) * c


class BlockSensing(SpectralOperator):
    """y = Phi x_block for each block of b x b pixels of each colour, Phi Gaussian (Gan 2007,
    https://doi.org/10.1109/ICDSP.2007.4288604).

    Phi is `m b^2` with entries N(0, 1 / m), m = round(ratio b^2); its SVD is small and made once. y is
    `B C h w m`, h x w blocks.

    Args:
        ratio: numbers per pixel, in (0, 1].
        block: b, divides both sides of the picture.
        seed: chooses Phi.

    Raises:
        Refusal: when the ratio is not in (0, 1].
    """

    label = "Block sensing"
    pictorial = False

    def __init__(self, ratio: float, block: int = 32, seed: int = 0):
        require_ratio(ratio)
        self.block = block
        m = max(round(ratio * block**2), 1)
        generator = torch.Generator().manual_seed(seed)
        self.matrix = torch.randn(m, block**2, generator=generator, dtype=torch.float64) / m**0.5
        self._factors = Cache()

    def image_shape(self, measurement_shape: tuple[int, ...]) -> tuple[int, int, int]:
        _, channels, h, w, _ = measurement_shape
        return channels, h * self.block, w * self.block

    def measurement_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        channels, height, width = image_shape
        return channels, height // self.block, width // self.block, len(self.matrix)

    def check(self, image_shape: tuple[int, int, int]) -> None:
        _, height, width = image_shape
        if height % self.block or width % self.block:
            raise Refusal(
                f"A {width} x {height} picture cannot be cut into blocks of {self.block} x {self.block}; crop it, or "
                "choose a block size that divides both sides."
            )

    def picture(self, y: Tensor) -> Tensor:
        """Each block's numbers as a column, block after block."""
        return log_picture(rearrange(y, "b c h w m -> b c m (h w)"))

    def _svd(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def make() -> tuple[Tensor, Tensor, Tensor]:
            u, s, vh = torch.linalg.svd(self.matrix)
            s = torch.nn.functional.pad(s, (0, len(vh) - len(s)))
            return u.to(like), s.to(like), vh.mT.contiguous().to(like)

        return self._factors.get((like.dtype, like.device), make)

    def _blocks(self, x: Tensor) -> Tensor:
        return rearrange(x, "b c (h i) (w j) -> b c h w (i j)", i=self.block, j=self.block)

    def _picture(self, blocks: Tensor) -> Tensor:
        return rearrange(blocks, "b c h w (i j) -> b c (h i) (w j)", i=self.block, j=self.block)

    def singular_values(self, image: Tensor) -> Tensor:
        return self._svd(image)[1]

    def to_spectrum(self, x: Tensor) -> Tensor:
        return self._blocks(x) @ self._svd(x)[2]

    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return self._picture(c @ self._svd(c)[2].mT)

    def measurement_to_spectrum(self, y: Tensor) -> Tensor:
        return torch.nn.functional.pad(y @ self._svd(y)[0], (0, self.block**2 - y.shape[-1]))

    def measurement_from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        u = self._svd(c)[0]
        return c[..., : len(u)] @ u.mT

    def forward(self, x: Tensor) -> Tensor:
        return self._blocks(x) @ self.matrix.to(x).mT

    def adjoint(self, y: Tensor) -> Tensor:
        return self._picture(y @ self.matrix.to(y))


def require_ratio(ratio: float) -> None:
    if not 0 < ratio <= 1:
        raise Refusal(f"The share of measurements is {ratio:g}; give a number above 0 and at most 1.")
