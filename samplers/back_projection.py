"""What few steps start from: A^+ y as a picture without holes, encoded."""

from __future__ import annotations

from torch import Tensor

from ..algebra.refusal import Refusal
from ..diffusion.run import Run
from ..measurement.decoded import of_pictures
from ..measurement.measurement import Measurement
from ..measurement.smooth import kriged


def back_projection(measurement: Measurement, like: Tensor) -> Tensor:
    """E(A^+ y) for each of the samples in `like`, `B C H W`; a pixel model has no E.

    Without what the noise drowns (`Measurement.inverse`), holes continued from their rim, colours from grey, and cut to
    [0, 1]. Damage that has no inverse gives grey.
    """
    pictures, codec = of_pictures(measurement)
    image = like.new_full((len(like), *pictures.image_shape), 0.5)
    if pictures.operator.linear:
        correction = pictures.inverse(pictures.residual(image))
        image = image + kriged(pictures.operator, correction, image, 1.0)
    else:
        try:
            image = pictures.operator.pinv(pictures.y).expand_as(image)
        except Refusal:
            pass
    return codec.encode(image.clamp(0, 1))


def noised_back_projection(run: Run, like: Tensor) -> Tensor:
    """The same with noise of the run's first level, which may lie below pure noise."""
    first = run.levels[0]
    return first.alpha * back_projection(run.measurement, like) + first.sigma * run.draw.normal(like)
