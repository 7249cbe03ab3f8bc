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
from ..operators.base import Operator
from ..operators.spectral import SpectralOperator
from .measurement import Measurement
from .smooth import harmonic


def keep_measured(measurement: Measurement, picture: Tensor) -> Tensor:
    """The measured pixels bit for bit, the others from a generated picture that is made to fit.

    Pixels that something covered in part (`Operator.spread`) are not measured in this sense.

    Args:
        measurement: of pixels, each of which is measured as it is or not at all: masks, frames, one after the other.
        picture: `B C H W`; may be larger than what was measured, which then is its upper left corner.

    Raises:
        Refusal: when what was measured are not pixels, when nothing is missing, or the picture is too small.
    """
    operator = measurement.operator
    channels, height, width = measurement.image_shape
    if picture.shape[1] != channels or picture.shape[2] < height or picture.shape[3] < width:
        raise Refusal(
            f"The picture is {picture.shape[3]} x {picture.shape[2]} and the measurement speaks of {width} x {height}; "
            "give the picture that was made from it."
        )
    batches = {len(picture), len(measurement.y)} - {1}
    if len(batches) > 1:
        raise Refusal(
            f"There are {len(picture)} pictures and the measurement has {len(measurement.y)}; give one, or one for "
            "each."
        )
    picture = picture[..., :height, :width]
    if not shows_pixels(operator, picture):
        raise _no_pixels(operator)
    known = operator.adjoint(measurement.y).to(picture)
    keep = operator.singular_values(picture).to(picture) > 0
    spread = operator.spread(measurement.y)
    if spread is not None:
        keep = keep & (operator.adjoint(spread.to(picture).expand_as(measurement.y)) == 0)
    batch = max(len(known), len(picture))
    known, keep, picture = (each.expand(batch, channels, -1, -1) for each in (known, keep, picture))
    return torch.where(keep, known, picture + harmonic(known - picture, keep))


def shows_pixels(operator: Operator, picture: Tensor) -> bool:
    """Whether every measured number is a pixel of pictures like this one, and some are missing."""
    if not (isinstance(operator, SpectralOperator) and operator.aligned and operator.local):
        return False
    s = operator.singular_values(picture)
    return bool(((s == 0) | (s == 1)).all()) and not bool(s.all())


def _no_pixels(operator: Operator) -> Refusal:
    return Refusal(
        f"{operator.label} measures no pixels that could be kept beside others; this is for masks, lost pixels and "
        "outpainting."
    )
