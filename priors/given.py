"""What a conditional prior is told: one operator A and its measurement y, laid out as a picture.

    y = A(u) + sigma_y z,  u in [0, 1];    told: y itself where it is as large as u, else A^+ y;  then 2 (.) - 1

so that h(x_t, t, y) sees the measurement in its own unit and place, as further channels behind x_t.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from ..operators.base import Operator
from ..operators.convolution import SymmetricConvolution
from ..operators.downscale import downscale
from ..operators.grayscale import Grayscale
from ..operators.identity import Identity
from ..operators.jpeg import JPEG
from ..operators.kernels import gaussian

Telling = Callable[[Tensor, torch.Generator], Tensor | None]

#: the operators that `train.py --operator` knows; to train for another one, add a row
OPERATORS: dict[str, Callable[[], Operator]] = {
    "super_resolution_x4": lambda: downscale(4),
    "super_resolution_x4_box": lambda: downscale(4, "box"),
    "blur_2px": lambda: SymmetricConvolution(gaussian(2.0)),
    "colorization": Grayscale,
    "jpeg_20": lambda: JPEG(20),
    "noise": Identity,
}


def laid_out(operator: Operator, y: Tensor) -> Tensor:
    """y `B ...` in [0, 1] as what the network is told, `B C H W` in [-1, 1]."""
    shape = operator.image_shape(y.shape)
    return 2 * (y if tuple(y.shape[1:]) == tuple(shape) else operator.pinv(y)) - 1


def telling(name: str | None, sigma_y: float) -> Telling:
    """What a network is told of clean pictures x0 `B C H W` in [-1, 1]: nothing, or a fresh measurement.

    Args:
        name: one of `OPERATORS`, or None.
        sigma_y: noise of the measurement, unit of [0, 1].
    """
    operator = OPERATORS[name]() if name else None

    def told(x0: Tensor, generator: torch.Generator) -> Tensor | None:
        if operator is None:
            return None
        y = operator((x0 + 1) / 2)
        return laid_out(operator, y + sigma_y * torch.randn(y.shape, generator=generator))

    return told


def same_operator(name: str, operator: Operator, image_shape: tuple[int, int, int]) -> bool:
    """Whether an operator does to a picture of (C, H, W) what the one of this name does."""
    named = OPERATORS[name]()
    try:
        named.check(image_shape)
    except Refusal:
        return False
    u = torch.rand(1, *image_shape, generator=torch.Generator().manual_seed(0))
    expected, y = named(u), operator.to("cpu", torch.float32)(u)
    return y.shape == expected.shape and bool((y - expected).abs().max() < 1e-3)
