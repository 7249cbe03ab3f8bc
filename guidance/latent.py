"""How a method listens to a picture while the model works on latents z, with decoder D and encoder E.

    composed    the measured function is A(D(z)): gradient methods as they are
    linearised  A(D(z)) ~ A(D(p)) + J (z - p) at p = x0_hat: methods for linear operators that use the prior's Jacobian;
                exact where D is affine
    pictures    projections: made on the decoded picture and brought back without the autoencoder's own error,
                z(y) = z + E(P(D(z))) - E(D(z))
    only        methods that are made for latents, composed as well

A projection costs one decoding and two encodings a step, and no gradient. Noise levels of latents are handed on to it
as those of pictures in [-1, 1]: both have about unit variance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..diffusion.level import Level
from ..diffusion.state import Estimate, State
from ..measurement.decoded import Codec, Decoded, Linearised
from ..measurement.measurement import Measurement
from .base import Guidance


@dataclass(frozen=True)
class OnPictures(Guidance):
    """A block whose estimate depends on x0_hat only, made on the decoded picture.

    Args:
        block: the method, with its measurement of pictures.
        codec: D and E.
    """

    block: Guidance
    codec: Codec

    @property
    def label(self) -> str:
        return self.block.label

    def observing(self, measurement: Measurement) -> OnPictures:
        return replace(self, measurement=measurement, block=_on_pictures(self.block, measurement))

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        image = self.codec.decode(x0)
        t, s = level_of_pictures(state.t), state.s and level_of_pictures(state.s)
        seen = State(t.alpha * image, t, image, s=s, progress=state.progress, index=state.index, draw=state.draw)
        projected = self.block.estimate(seen, image).x0
        return Estimate(x0 + self.codec.encode(projected) - self.codec.encode(image))


def _on_pictures(block: Guidance, measurement: Measurement) -> Guidance:
    """The block with the pictures' part of a measurement of latents."""
    return block.observing(replace(measurement, operator=measurement.operator.operator))


def level_of_pictures(level: Level) -> Level:
    """A level of latents as one of pictures, whose states are [-1, 1] seen as [0, 1]."""
    return Level(level.alpha, level.sigma / 2, 2.0)


@dataclass(frozen=True)
class Relinearised(Guidance):
    """A block for linear operators on the linearisation at x0_hat, made anew in each step.

    Args:
        block: the method, with its measurement of pictures.
        iterations: cap of the conjugate gradients where the method solves a system with the linearisation.
    """

    block: Guidance
    iterations: int = 5

    @property
    def jacobian(self) -> bool:
        return self.block.jacobian

    @property
    def label(self) -> str:
        return self.block.label

    def observing(self, measurement: Measurement) -> Relinearised:
        return replace(self, measurement=measurement, block=_on_pictures(self.block, measurement))

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        near = Linearised(self.measurement.operator, state.x0, self.iterations).measured(self.measurement)
        return replace(self.block, measurement=near).estimate(state, x0)


def decoded(block: Guidance, codec: Codec) -> Guidance:
    """The block on latents of `codec`.

    Raises:
        Refusal: when the method cannot do without a linear operator.
    """
    measurement = replace(block.measurement, operator=Decoded(block.measurement.operator, codec))
    if block.latent == "pictures":
        return OnPictures(measurement, block, codec, timing=block.timing)
    if block.latent == "linearised":
        return Relinearised(measurement, block, timing=block.timing)
    return replace(block, measurement=measurement)
