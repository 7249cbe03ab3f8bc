"""Phase retrieval: a detector sees how strong a wave is and not its phase. Not linear: DPS and its kin apply."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..algebra.cache import Cache
from ..algebra.devices import require_complex
from ..algebra.refusal import Refusal
from ..algebra.transforms import wide
from ..algebra.views import log_picture
from .base import Operator


class PhaseRetrieval(Operator):
    """y = abs(F pad(x)), `B C ceil(k H) ceil(k W)` (Fienup 1982, https://doi.org/10.1364/AO.21.002758).

    F is the orthonormal discrete Fourier transform with the constant frequency at index 0; the picture is padded with
    zeros on all sides. The same y belongs to the picture moved, or turned by 180 degrees.

    Args:
        oversampling: k, side of the padded picture over the picture's, 1 to 8; 2 determines almost all pictures.

    Raises:
        Refusal: when k is below 1.
    """

    label = "Phase retrieval"
    pictorial = False

    def __init__(self, oversampling: float = 2.0):
        if not oversampling >= 1:
            raise Refusal(f"The oversampling is {oversampling:g}; give 1 or more, 2 is usual.")
        self.oversampling = oversampling

    def _padded(self, n: int) -> int:
        return math.ceil(self.oversampling * n - 1e-9)

    def image_shape(self, measurement_shape: tuple[int, ...]) -> tuple[int, int, int]:
        h, w = (math.floor(n / self.oversampling + 1e-9) for n in measurement_shape[2:])
        return measurement_shape[1], h, w

    def measurement_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        channels, h, w = image_shape
        return channels, self._padded(h), self._padded(w)

    def picture(self, y: Tensor) -> Tensor:
        """Logarithmic, low frequencies in the middle."""
        return log_picture(torch.fft.fftshift(y, (-2, -1)))

    def forward(self, x: Tensor) -> Tensor:
        require_complex(x.device, self.label)
        more = [self._padded(n) - n for n in (x.shape[-1], x.shape[-2])]
        border = [part for extra in more for part in (extra // 2, extra - extra // 2)]
        return torch.fft.fft2(pad(wide(x), border), norm="ortho").abs().to(x.dtype)


class CodedDiffraction(Operator):
    """y_j = abs(F (d_j x)), `B C J H W`, with known phase masks d_j in {1, i, -1, -i} (Candes, Li and Soltanolkotabi
    2015, https://doi.org/10.1016/j.acha.2014.09.004).

    Args:
        masks: J >= 1; from about four on the picture is determined.
        seed: chooses the masks, one choice for each size of picture.

    Raises:
        Refusal: when there is no mask.
    """

    label = "Coded diffraction"
    pictorial = False

    def __init__(self, masks: int = 4, seed: int = 0):
        if masks < 1:
            raise Refusal("Coded diffraction needs at least one mask; 4 are a good number.")
        self.masks, self.seed = masks, seed
        self._cache = Cache()

    def image_shape(self, measurement_shape: tuple[int, ...]) -> tuple[int, int, int]:
        _, channels, _, h, w = measurement_shape
        return channels, h, w

    def measurement_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        channels, h, w = image_shape
        return channels, self.masks, h, w

    def picture(self, y: Tensor) -> Tensor:
        """Logarithmic, the masks side by side, low frequencies in the middle."""
        return log_picture(torch.fft.fftshift(y, (-2, -1)).movedim(2, 3).flatten(3))

    def _codes(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        kind = torch.complex128 if x.dtype == torch.float64 else torch.complex64

        def make() -> Tensor:
            quarter = torch.randint(4, (self.masks, h, w), generator=torch.Generator().manual_seed(self.seed))
            return torch.tensor([1, 1j, -1, -1j], dtype=kind)[quarter].to(x.device)

        return self._cache.get((h, w, kind, x.device), make)

    def forward(self, x: Tensor) -> Tensor:
        require_complex(x.device, self.label)
        return torch.fft.fft2(self._codes(x) * wide(x)[:, :, None], norm="ortho").abs().to(x.dtype)
