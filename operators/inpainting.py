"""Inpainting: some pixels are known, the others are not, A = diag(keep)."""

from __future__ import annotations

from torch import Tensor

from .errors import Refusal
from .spectral import SpectralOperator


class Inpainting(SpectralOperator):
    """y = keep * x. A has the singular values 1 (known) and 0 (hole); y is 0 in the hole.

    Args:
        hole: `B 1 H W` or `1 1 H W`, in [0, 1]; a pixel counts as unknown from `threshold` upwards.
        threshold: where a soft mask becomes a hole. Small, so that half-covered edge pixels are not trusted.

    Raises:
        Refusal: when the mask marks nothing, or everything.
    """

    label = "Inpainting"

    def __init__(self, hole: Tensor, threshold: float = 0.02):
        unknown = hole >= threshold
        marked = unknown.flatten(1).any(1)
        if not marked.all():
            raise Refusal("The mask is empty, so there is nothing to fill in; paint over what should be repaired.")
        if unknown.flatten(1).all(1).any():
            raise Refusal("The mask covers the whole picture, so nothing is known; leave some pixels unmasked.")
        self.keep = (~unknown).to(hole.dtype)

    def check(self, image_shape: tuple[int, int, int]) -> None:
        if tuple(self.keep.shape[-2:]) != tuple(image_shape[-2:]):
            raise Refusal(
                f"The mask is {self.keep.shape[-1]} x {self.keep.shape[-2]} pixels and the picture is "
                f"{image_shape[-1]} x {image_shape[-2]}; make both the same size."
            )

    def support(self, y: Tensor) -> Tensor:
        return self.keep.expand(-1, *y.shape[1:])

    def singular_values(self, image: Tensor) -> Tensor:
        return self.keep

    def to_spectrum(self, x: Tensor) -> Tensor:
        return x

    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return c

    def measurement_to_spectrum(self, y: Tensor) -> Tensor:
        return self.keep * y

    def measurement_from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return self.keep * c
