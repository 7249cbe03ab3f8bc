"""What the photo itself says against what was told of its damage.

    blur    its parameters, where their evidence (`spectrum`) is beyond doubt higher than that of the told ones, or the
            told ones are no more than a guess; of a guessed kernel another shape (`kernel_estimate`), where the
            spectrum is clear about it
    JPEG    its tables, read off the combs of its coefficients (`jpeg_tables`)
    levels  y = a x + b, and y = a x, only where they are a guess (`fading`)
    noise   what is fine where a blur left nothing fine (`seen_noise`); more than that is kept, and said; and what a
            JPEG has rounded since the blur

A wrong operator is no small error. To divide by a disk of 4.5 pixels what a disk of 3 has blurred leaves a picture of
rings, 10 dB below the blurred one. But the zeros of |k_hat| that make the rings also tell the true radius, to a few
percent, and what the told one leaves in the residual is not white.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..operators.convolution import convolution
from ..operators.families import DiskRadius, Exposure, FreeKernel, GaussianWidth, Motion
from ..operators.family import Family, told
from ..operators.identity import Scale
from ..operators.jpeg import JPEG
from ..operators.levels import Levels
from .blur_estimate import KERNELS, SMALLEST, likeliest
from .fading import BRIGHTEST, levels_of
from .jpeg_tables import compression
from .kernel_estimate import DOUBT, estimate_kernel
from .measurement import Measurement
from .noise import ROUNDING, GaussianNoise
from .plain_noise import white_level
from .seen_noise import as_noisy_as_seen, rounding_as_noise, shown

#: nats from which a photo contradicts the told parameters of a blur. On 20 crops of 128 pixels of training photographs
#: with noise of 0 and 0.01, where they were right, the best were up to 3 better; where they were half as large again,
#: 14 and more, but for one of a Gaussian of 1 pixel, which is then taken as told; of disks hundreds
CLEAR = 10.0
KIND: dict[type[Family], str] = {GaussianWidth: "gaussian", DiskRadius: "defocus", Motion: "motion"}
NOT_WHITE = "with the {} as it was told the residual is not white, so that it was taken as the photo shows it: {}"
SMOOTHER = (
    "sigma_y = {:.2g} was kept as it was told, for a smoother picture; it is more than the residual has: as the photo "
    "shows there is noise of {:.2g}, which may keep more detail"
)


@dataclass(frozen=True)
class Seen:
    """What is to be taken for what was told.

    Args:
        measurement: the one that was told, or as the photo shows it.
        words: what was changed, and why; empty for nothing.
    """

    measurement: Measurement
    words: str = ""


def as_seen(measurement: Measurement) -> Seen:
    """The measurement as its own picture shows it; pictures below 64 pixels, and simulated ones, are taken as told."""
    operator, seen = measurement.operator, Seen(measurement)
    if operator.unknown and isinstance(operator, Levels):
        return _faded(measurement)
    if operator.unknown and isinstance(operator, Scale):
        return _darkened(measurement)
    if measurement.rounding == 0 or min(measurement.y.shape[-2:]) < SMALLEST:
        return seen
    if (noisy := rounding_as_noise(measurement)) is not measurement:
        return Seen(noisy, "what JPEG has rounded since the blur counts as noise")
    if isinstance(operator, JPEG):
        seen = _compressed(measurement)
    elif type(operator.family) in KIND:
        seen = _blurred(measurement)
    elif operator.unknown and isinstance(operator.family, FreeKernel):
        seen = _shaken(measurement)
    noisy, level = as_noisy_as_seen(seen.measurement), measurement.noise.level
    if noisy is not seen.measurement:
        words = f"with sigma_y = {noisy.noise.level:.2g}, as the photo shows"
    elif (least := shown(noisy)) is not None and level > 1.5 * max(least, ROUNDING):
        words = SMOOTHER.format(level, max(least, ROUNDING))
    else:
        return seen
    return Seen(noisy, f"{seen.words}; {words}" if seen.words else words)


def _blurred(measurement: Measurement) -> Seen:
    family, unknown = measurement.operator.family, measurement.operator.unknown
    kind, said = KIND[type(family)], numbers(family, family.start())
    found, nats = likeliest(measurement.y, kind, said, unknown)
    if nats <= CLEAR and not unknown:
        return Seen(measurement)
    operator = told(convolution(KERNELS[kind](*found), family.boundary), family)
    words = in_words(family, said, found)
    if not unknown:
        words = NOT_WHITE.format("blur", words)
    return Seen(replace(measurement, operator=operator), words)


def _shaken(measurement: Measurement) -> Seen:
    """With the noise that a found kernel needs; what is not clear is left to be found with the picture."""
    family, y, noise = measurement.operator.family, measurement.y, measurement.noise
    if family.boundary == "valid" or min(y.shape[-2:]) < 2 * family.size:
        return Seen(measurement)
    found = estimate_kernel(y, family.size)
    if not found.clear:
        words = f"the photo is too small or too even to show the shape of the blur ({found.nats:+.0f} nats)"
        return Seen(measurement, words)
    noise = noise if noise.level is None else GaussianNoise(math.hypot(noise.level, DOUBT))
    words = f"{found} was read off the photo, which is clear about it ({found.nats:+.0f} nats)"
    return Seen(replace(measurement, operator=convolution(found.kernel.to(y), family.boundary), noise=noise), words)


def numbers(family: Family, theta: Tensor) -> tuple[float, ...]:
    """theta, `K`, in the units of the family's names; none where it has none."""
    named = zip(family.names, theta.tolist(), strict=False)
    return tuple(math.degrees(value) if "degrees" in name else value for name, value in named)


def in_words(family: Family, said: tuple[float, ...], found: tuple[float, ...]) -> str:
    """For a report: radius (px): told 3, found 2.1."""
    rows = zip(family.names, said, found, strict=True)
    return ", ".join(f"{name}: told {before:.3g}, found {after:.3g}" for name, before, after in rows)


def _compressed(measurement: Measurement) -> Seen:
    operator, y = measurement.operator, measurement.y
    found = compression(y) if len(y) == 1 and operator.orientation == 1 else None
    if found is None or torch.equal(operator.luminance, found.operator().luminance):
        return Seen(measurement)
    return Seen(replace(measurement, operator=found.operator()), NOT_WHITE.format("compression", found.words()))


def _faded(measurement: Measurement) -> Seen:
    """Black of all colours, then white of those from which the cast that was told is taken."""
    operator, image = measurement.operator, measurement.operator.picture(measurement.y)
    noise = _level(measurement, image)
    cast, offset = operator.gain / operator.gain.mean(), levels_of(image, noise).offset
    gain = levels_of((image - offset) / cast.to(image), noise).gain
    found = Levels(gain * cast, offset)
    said = (operator.gain.mean().item(), operator.offset.mean().item())
    words = in_words(Exposure(), said, (gain, offset))
    return Seen(replace(measurement, operator=found, y=found.read(image)), words)


def _darkened(measurement: Measurement) -> Seen:
    """Where white lies, black being told."""
    operator, y = measurement.operator, measurement.y
    levels = levels_of(y, _level(measurement, y + operator.offset))
    factor = max(levels.gain + levels.offset / BRIGHTEST, 0.02)
    words = in_words(Exposure(offset=False), (operator.factor,), (factor,))
    return Seen(replace(measurement, operator=Scale(factor, operator.offset)), words)


def _level(measurement: Measurement, images: Tensor) -> float:
    """sigma of the noise as the pictures show it, as told where they are too small."""
    if min(images.shape[-2:]) < SMALLEST:
        return measurement.noise.level or 0.0
    return sum(white_level(image[None]) for image in images.clamp(0, 1)) / len(images)
