"""Classical answers to linear inverse problems, each with the parameters among which the best is chosen.

BM3D is not among them: the packages that carry it are for non-commercial use only, or for Python 3.12 and later.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..measurement.measurement import Measurement
from ..measurement.smooth import harmonic, membrane, smooth_inverse
from ..operators.convolution import CircularConvolution
from ..operators.identity import Identity
from ..operators.inpainting import Inpainting


def total_variation(measurement: Measurement, weight: float, rounds: int = 60) -> Tensor:
    """argmin norm(A x - y)^2 / 2 + weight TV(x) by ADMM; for clean measurements TV under A x = y."""
    from deepinv.models import TVDenoiser

    operator, y = measurement.operator, measurement.y
    exact = measurement.noise.sigma == 0
    z = smooth_inverse(operator, y)
    if isinstance(operator, Identity):
        return TVDenoiser(n_it_max=200)(y, ths=weight)
    dual, rho, shrink = torch.zeros_like(z), weight / 0.02, TVDenoiser(n_it_max=40)
    for _ in range(rounds):
        v = z - dual
        x = v + operator.pinv(y - operator(v)) if exact else operator.prox(v, y, rho)
        z = shrink(x + dual, ths=0.02)
        dual = dual + x - z
    return x


def each(function: Callable[[np.ndarray], np.ndarray], x: Tensor) -> Tensor:
    return torch.stack([torch.from_numpy(function(u.movedim(0, -1).numpy())).movedim(-1, 0).float() for u in x])


def candidates(measurement: Measurement, quick: bool) -> dict[str, Callable[[], Tensor]]:
    """The candidates, by name."""
    from skimage.restoration import denoise_nl_means, inpaint_biharmonic

    operator, y, sigma = measurement.operator, measurement.y, measurement.noise.sigma
    found: dict[str, Callable[[], Tensor]] = {}
    weights = [0.12, 0.5, 1.0] if quick else [0.015, 0.03, 0.06, 0.12, 0.4, 1.0, 2.0, 4.0]
    for weight in weights if sigma else [1.0]:
        found[f"total variation, {weight}"] = lambda w=weight: total_variation(measurement, w * max(sigma, 0.02))
    if isinstance(operator, Identity):
        for strength in (0.3, 0.45, 0.6, 0.8):
            found[f"non-local means, {strength}"] = lambda h=strength: each(
                lambda u: denoise_nl_means(u, 5, 9, h=h * sigma, sigma=sigma, channel_axis=-1), y
            )
    elif isinstance(operator, Inpainting):
        mask = operator.keep[0, 0].numpy() == 0
        found["thin plate"] = lambda: smooth_inverse(operator, y, 1e-3)
        found["membrane"] = lambda: harmonic(y, (operator.keep > 0).expand_as(y))
        found["biharmonic"] = lambda: each(lambda u: inpaint_biharmonic(u, mask, channel_axis=-1), y)
    elif isinstance(operator, CircularConvolution):
        for ratio in (1.0, 2.0, 4.0, 8.0):  # the Wiener filter for a spectrum of 1 / f^2, with free borders
            found[f"Tikhonov, {ratio}"] = lambda r=ratio: membrane(operator, y, 30 * r * sigma**2)
    else:
        found["bicubic"] = lambda: F.interpolate(y, scale_factor=4.0, mode="bicubic")
        found["thin plate"] = lambda: smooth_inverse(operator, y, 1e-3)
    return found
