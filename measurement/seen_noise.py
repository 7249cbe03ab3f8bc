"""Noise that a photo shows, where somebody said another one.

A wide blur leaves nothing as fine as a pixel, so what is fine in y is noise, and `noise_level` sees it well: on
training photographs blurred by a disk of 3 pixels it finds 0.0100 and 0.0101 where there is 0.01, 0.0024 and 0.0025
with the rounding of 8 bits where there is 0.002. To divide by the blur with less noise than that fills the picture with
it: on one of them (damaged 23.9 dB) a third of the true sigma_y gives 14.8 dB, the true one 28.6.

A JPEG of a blurred picture has rounded it, and to undo both exactly divides what was rounded by the blur (5 dB on
training photographs). So there JPEG counts as noise, as loud as what the same JPEG would change once more with its
blocks elsewhere.

Where there is noise only, its colours tell it from texture (`plain_noise`), to 7 %. Three times too much of it smooths
texture away: up to 1.5 dB below the noisy photo on twelve training photographs with noise of 0.01 and 0.02.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..operators.base import Operator
from ..operators.compose import Composition, compose
from ..operators.convolution import Convolution
from ..operators.identity import Scale
from ..operators.jpeg import JPEG
from .measurement import Measurement
from .noise import ROUNDING, GaussianNoise
from .noise_level import noise_level
from .plain_noise import white_level

#: sum of a kernel's squares below which nothing is left as fine as a pixel; that of a Gaussian of 0.9 pixels
WIDE = 0.1
#: times what a JPEG changes that its noise is taken for: gain over the damaged picture in the mean of five JPEGs
#: (qualities 80 and 40) of three training photographs of 160 pixels, 12 steps: 2.3, 2.9 and 2.9 dB with 1.5, 2 and 3
LOUD = 2.0


def rounding_as_noise(measurement: Measurement) -> Measurement:
    """The measurement without the JPEG that came after its blur, and with the noise that this is."""
    operator, y = measurement.operator, measurement.y
    jpeg, rest = _without_jpeg(operator)
    if jpeg is None or not rest.linear or blur_in(rest) is None:
        return measurement
    cut = y[..., 4:, 4:]
    changed = (jpeg.forward(cut) - cut).square().mean().sqrt()
    return replace(measurement, operator=rest, noise=measurement.noise.widened(LOUD * changed))


def _without_jpeg(operator: Operator) -> tuple[JPEG | None, Operator]:
    """The JPEG among the things that happened, and the others."""
    if not isinstance(operator, Composition):
        return None, operator
    if isinstance(operator.outer, JPEG):
        return operator.outer, operator.inner
    jpeg, rest = _without_jpeg(operator.inner)
    return jpeg, operator if jpeg is None else compose(operator.outer, rest)


def as_noisy_as_seen(measurement: Measurement) -> Measurement:
    """The measurement with the noise that it shows, where that is half as much again as was said.

    Where there is noise only, also where it is less by as much. Other damage, and small pictures, stay as they are.
    """
    level, seen = measurement.noise.level, shown(measurement)
    if seen is None:
        return measurement
    more = seen > (1.5 * level if isinstance(measurement.operator, Scale) else max(1.5 * level, 3 * ROUNDING))
    less = isinstance(measurement.operator, Scale) and level > 1.5 * seen
    return replace(measurement, noise=GaussianNoise(seen)) if more or less else measurement


def shown(measurement: Measurement) -> float | None:
    """sigma of the noise that the picture shows, image units; None where it cannot be told, or nobody said another."""
    operator, y, level = measurement.operator, measurement.y, measurement.noise.level
    if level is None or measurement.rounding == 0:
        return None
    if isinstance(operator, Scale):
        return white_only(y) if level > 0 else None
    blur = blur_in(operator)
    if blur is None or min(y.shape[-2:]) < 64 or not operator.linear or operator.support(y) is not None:
        return None
    wide = blur.kernel.square().sum((-2, -1)).max() <= WIDE
    return noise_level(y.clamp(0, 1)).max().item() if wide else None


def white_only(y: Tensor) -> float | None:
    """sigma of the noise of a picture, `1 C H W`; None for several, for less than 128 pixels, where there is none, and
    where it has neighbours: at half the size, where its deviation would be a half, it is more than two thirds."""
    if len(y) != 1 or min(y.shape[-2:]) < 128:
        return None
    fine, coarse = white_level(y.clamp(0, 1)), white_level(avg_pool2d(y.clamp(0, 1), 2))
    return fine if 0 < fine and coarse <= 2 / 3 * fine else None


def blur_in(operator: Operator) -> Convolution | None:
    """The blur among the things that happened one after the other."""
    if isinstance(operator, Composition):
        return blur_in(operator.outer) or blur_in(operator.inner)
    return operator if isinstance(operator, Convolution) else None
