"""Between the model's coordinates and the measurement's.

A pixel model works on x in [-1, 1]; the measurement speaks of u = (x + 1) / 2 in [0, 1]. With x_t = alpha x_0 +
sigma z this gives u_t = (x_t + alpha) / 2 = alpha u_0 + (sigma / 2) z: the same process in image units. A latent
model keeps its coordinates, and the measured function becomes A(decode(z)). States of models with a time axis are
`B C 1 H W`; natively they have none.
"""

from __future__ import annotations

import comfy.model_sampling
from torch import Tensor

from ...algebra.refusal import Refusal
from ...diffusion.level import Level
from ...diffusion.schedule import Schedule
from ...guidance.base import Guidance
from ...guidance.latent import decoded
from ..autograd.memory_plan import MemoryPlan
from .latents import of_model, of_vae, one_frame, picture_ratio
from .vae import Autoencoder, decoder_graph_memory, is_latent_vae, static_vae

#: a latent may decode to so many more rows or columns than were measured, less one: sides that VAEs and models can take
SPARE = 65
#: what to do about it; the second for nodes that make latents of their own
_SIZES = (
    "make the latent with Starting Point from the same measurement, and give a detailer or a tiled upscaler, which "
    "samples pieces, the model without guidance."
)
_OWN = "connect the model's own VAE"


def schedule_of(model_sampling) -> Schedule:
    """The noise schedule of a host's `model_sampling` object."""
    return Schedule("flow" if isinstance(model_sampling, comfy.model_sampling.CONST) else "exploding")


class ModelSpace:
    """The identity: model coordinates are the sampler's (no guidance, nothing to convert).

    Args:
        framed: whether the model's states have a time axis to be left out.
    """

    scale = 1.0

    def __init__(self, framed: bool = False):
        self._framed = framed

    def level(self, level: Level) -> Level:
        return Level(level.alpha, level.sigma / self.scale, self.scale)

    def to_native(self, x: Tensor, alpha: float) -> Tensor:
        return one_frame(x) if self._framed else x

    def to_model(self, u: Tensor, alpha: float) -> Tensor:
        return u[:, :, None] if self._framed else u

    def bind(self, block: Guidance, x_shape: tuple[int, ...]) -> Guidance:
        """The block on native coordinates.

        Args:
            x_shape: of native states, `B C H W`.

        Raises:
            Refusal: when it does not work there, or on another size.
        """
        return block

    def sound(self) -> list[Tensor]:
        """Whether each way to the picture has given numbers so far, bools on the device."""
        return []

    def patchers(self) -> list:
        """What is loaded and differentiated through besides the model, as the host's patchers."""
        return []

    def save(self, plan: MemoryPlan) -> None:
        """How the gradient passes to come are made."""

    def graph_memory(self, shape: tuple[int, ...], plan: MemoryPlan) -> float:
        """Estimated bytes that the way to the picture takes with its gradient."""
        return 0.0


class PixelSpace(ModelSpace):
    """Models on [-1, 1] pictures, seen as [0, 1]."""

    scale = 2.0

    def to_native(self, x: Tensor, alpha: float) -> Tensor:
        return (super().to_native(x, alpha) + alpha) / 2

    def to_model(self, u: Tensor, alpha: float) -> Tensor:
        return super().to_model(2 * u - alpha, alpha)

    def bind(self, block: Guidance, x_shape: tuple[int, ...]) -> Guidance:
        if block.latent == "only":
            raise Refusal(
                f"{block.label} is made for latent models, and this one works on pictures; choose DPS instead."
            )
        image_shape = block.measurement.image_shape
        if tuple(x_shape[1:]) != tuple(image_shape):
            raise Refusal(
                f"The measurement speaks of a {image_shape[2]} x {image_shape[1]} picture and the latent is "
                f"{x_shape[3]} x {x_shape[2]}; {_SIZES}"
            )
        return block


class LatentSpace(ModelSpace):
    """Models on the latents of a VAE."""

    def __init__(self, model, vae):
        super().__init__(of_vae(vae).framed)
        self._format, self._vae = model.latent_format, static_vae(vae)
        self._codecs: list[Autoencoder] = []

    def bind(self, block: Guidance, x_shape: tuple[int, ...]) -> Guidance:
        _, height, width = block.measurement.image_shape
        ratio, (latent_height, latent_width) = picture_ratio(self._vae), x_shape[2:]
        sides = ((latent_height * ratio, height), (latent_width * ratio, width))
        if not all(0 <= decoded - shown < SPARE for decoded, shown in sides):
            raise Refusal(
                f"The measurement speaks of a {width} x {height} picture and the latent decodes to "
                f"{latent_width * ratio} x {latent_height * ratio}; {_SIZES}"
            )
        codec = Autoencoder(self._vae, self._format, (height, width), (latent_height, latent_width), MemoryPlan())
        self._codecs.append(codec)
        return decoded(block, codec)

    def save(self, plan: MemoryPlan) -> None:
        for codec in self._codecs:
            codec.plan = plan

    def sound(self) -> list[Tensor]:
        return [codec.sound for codec in self._codecs if codec.sound is not True]

    def patchers(self) -> list:
        return [self._vae.patcher]

    def graph_memory(self, shape: tuple[int, ...], plan: MemoryPlan) -> float:
        return decoder_graph_memory(self._vae, shape, plan)


def space_of(model, vae) -> ModelSpace:
    """The space in which a host's `BaseModel` and an optional VAE meet a measurement.

    Raises:
        Refusal: for a latent model without a VAE, and for latents that are not pictures.
    """
    works_on = of_model(model.latent_format)
    pixels = works_on.channels == 3
    if is_latent_vae(vae):
        makes = of_vae(vae)
        if makes.channels != works_on.channels:
            raise Refusal(
                f"This VAE makes latents of {makes.channels} channels and the model works on "
                f"{'pictures' if pixels else f'{works_on.channels} channels'}; "
                f"{'leave vae empty' if pixels else _OWN}."
            )
        if makes.framed != works_on.framed:
            kinds = ("pictures", "video")
            raise Refusal(
                f"This VAE makes latents of {kinds[makes.framed]} and the model works on those of "
                f"{kinds[works_on.framed]}; {_OWN}."
            )
        return LatentSpace(model, vae)
    if pixels:
        return PixelSpace(works_on.framed)
    raise Refusal("This model works on latents, so guidance needs its VAE; connect the VAE to the guidance node.")
