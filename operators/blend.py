"""Measured pixels put back into a generated picture, without a seam.

The user's pixels are taken as they are. In the unknown part U the generated picture v keeps its gradients and moves by
a correction c to meet them (Poisson image editing, Perez et al. 2003, https://doi.org/10.1145/882262.882269):

    Laplacian(c) = 0 in U,    c = measured - v on the rim,    free at the borders of the picture

so that an offset of colour is spread over U instead of standing at the rim as an edge. Solved by conjugate gradients,
from coarse to fine, each colour on its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .crop import Crop
from .diagonal import Mask
from .errors import Refusal
from .krylov import conjugate_gradient
from .measurement import Measurement
from .smooth import negative_laplacian


def keep_measured(measurement: Measurement, picture: Tensor) -> Tensor:
    """The measured pixels bit for bit, the others from a generated picture that is made to fit.

    Args:
        measurement: of a mask or a frame, where a measured number is a pixel.
        picture: `B C H W`; may be larger than what was measured, which then is its upper left corner.

    Raises:
        Refusal: when what was measured are not pixels, or the picture is too small.
    """
    operator = measurement.operator
    if not isinstance(operator, Mask | Crop):
        raise Refusal(
            f"{operator.label} measures no pixels that could be kept; this is for masks, lost pixels and outpainting."
        )
    channels, height, width = measurement.image_shape
    if picture.shape[1] != channels or picture.shape[2] < height or picture.shape[3] < width:
        raise Refusal(
            f"The picture is {picture.shape[3]} x {picture.shape[2]} and the measurement speaks of {width} x {height}; "
            "give the picture that was made from it."
        )
    picture = picture[..., :height, :width]
    known = operator.adjoint(measurement.y).to(picture)
    keep = operator.singular_values(picture).to(picture) > 0
    batch = max(len(known), len(picture))
    known, keep, picture = (each.expand(batch, channels, -1, -1) for each in (known, keep, picture))
    return torch.where(keep, known, picture + harmonic(known - picture, keep))


def harmonic(values: Tensor, keep: Tensor, smallest: int = 8) -> Tensor:
    """The values where they are kept, and in between what has no Laplacian, `B C H W`.

    Args:
        keep: bool, the shape of values.
        smallest: side from which on the equation is solved without a coarser one.
    """
    values, unknown = values * keep, (~keep).to(values)
    if keep.all() or not keep.any():
        return values
    start = torch.zeros_like(values)
    if min(values.shape[-2:]) > smallest:
        share = F.avg_pool2d(keep.to(values), 2, ceil_mode=True)
        mean = F.avg_pool2d(values, 2, ceil_mode=True) / share.clamp_min(1e-6)
        start = F.interpolate(harmonic(mean, share > 0, smallest), scale_factor=2.0, mode="bilinear")
        start = start[..., : values.shape[-2], : values.shape[-1]] * unknown
    between = conjugate_gradient(
        lambda c: unknown * negative_laplacian(unknown * c), -unknown * negative_laplacian(values), start, warn=False
    )
    return values + unknown * between
