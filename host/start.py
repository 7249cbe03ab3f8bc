"""What a run starts from: an empty latent or a first picture; and the way back from latents to pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from ..measurement.measurement import Measurement
from ..measurement.smooth import smooth_start, through_grey
from ..operators.base import Operator
from .spaces.latents import of_vae, one_frame, picture_ratio
from .spaces.vae import is_latent_vae, latent_size, padded, require_numbers

STARTS = ("noise", "smooth", "back-projection")


def start_picture(measurement: Measurement, start: str) -> Tensor:
    """The smooth inverse or A^+ y (without what the noise drowns) as a picture, `B C H W` in [0, 1].

    "state" is A^+ y as it is, not cut to what a picture can show: a noisy state of the model.

    Raises:
        Refusal: when the operator has no such inverse.
    """
    if start == "state":
        return measurement.operator.pinv(measurement.y)
    if start == "back-projection":
        return through_grey(measurement.operator, measurement.inverse(measurement.y)).clamp(0, 1)
    if not measurement.operator.linear and type(measurement.operator).pinv is Operator.pinv:
        raise Refusal(f"{measurement.operator.label} has no smooth inverse; start from noise instead.")
    return through_grey(measurement.operator, smooth_start(measurement)).clamp(0, 1)


def start_latent(measurement: Measurement, start: str, batch: int, vae: Any = None) -> Tensor:
    """LATENT samples to start from: empty ones for noise, else a first picture (encoded where there is a VAE).

    Args:
        batch: how many for a measurement of one picture; one of several pictures has one for each.
    """
    channels, height, width = measurement.image_shape
    batch = len(measurement.y) if len(measurement.y) > 1 else batch
    if start == "noise":
        if not is_latent_vae(vae):
            return torch.zeros(batch, channels, height, width)
        frames = (1,) if of_vae(vae).framed else ()
        return torch.zeros(batch, vae.latent_channels, *frames, *latent_size(vae, height, width))
    image = start_picture(measurement, start)
    image = image.expand(batch, -1, -1, -1) if image.shape[0] == 1 else image
    if not is_latent_vae(vae):
        return 2 * image - 1
    whole = padded(image, *(picture_ratio(vae) * side for side in latent_size(vae, height, width)))
    pieces = whole.movedim(1, -1).split(1 if of_vae(vae).framed else batch)  # a batch would be a video
    latent = torch.cat([vae.encode(piece) for piece in pieces])
    require_numbers(latent, whole)
    return latent


def decode(samples: Tensor, image_shape: tuple[int, int, int], vae: Any = None) -> Tensor:
    """LATENT samples as pictures `B C H W` of the given (C, H, W), in [0, 1]."""
    if not is_latent_vae(vae):
        return ((samples + 1) / 2).clamp(0, 1)
    images = one_frame(vae.decode(samples).movedim(-1, 1))[..., : image_shape[1], : image_shape[2]]
    require_numbers(images, samples)
    return images
