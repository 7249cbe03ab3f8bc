"""Measured pixels put back into a generated picture, without a seam.

The user's pixels are taken as they are. In the unknown part U the generated picture v keeps its gradients and moves by
a correction c to meet them (Poisson image editing, Perez et al. 2003, https://doi.org/10.1145/882262.882269):

    Laplacian(c) = 0 in U,    c = measured - v on the rim,    free at the borders of the picture

so that an offset of colour is spread over U instead of standing at the rim as an edge.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from ..operators.crop import Crop
from ..operators.diagonal import Mask
from .measurement import Measurement
from .smooth import harmonic


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
