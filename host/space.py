"""Between the model's coordinates and the measurement's.

A pixel model works on x in [-1, 1]; the measurement speaks of u = (x + 1) / 2 in [0, 1]. With x_t = alpha x_0 +
sigma z this gives u_t = (x_t + alpha) / 2 = alpha u_0 + (sigma / 2) z: the same process in image units. A latent
model keeps its coordinates, and the measured function becomes A(decode(z)).
"""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_management
import comfy.model_sampling
import torch
from torch import Tensor, nn

from ..guidance.state import Level
from ..operators.base import Operator
from ..operators.errors import Refusal
from ..samplers.schedule import Schedule


def schedule_of(model_sampling) -> Schedule:
    """The noise schedule of a host's `model_sampling` object."""
    return Schedule("flow" if isinstance(model_sampling, comfy.model_sampling.CONST) else "exploding")


def is_latent_vae(vae) -> bool:
    """Whether a VAE changes coordinates; none, and the host's `pixel_space` choice, do not."""
    return vae is not None and "pixel_space_vae" not in dict(vae.first_stage_model.named_parameters(recurse=False))


class ModelSpace:
    """The identity: model coordinates are the sampler's (no guidance, nothing to convert)."""

    scale = 1.0

    def level(self, level: Level) -> Level:
        return Level(level.alpha, level.sigma / self.scale, self.scale)

    def to_native(self, x: Tensor, alpha: float) -> Tensor:
        return x

    def to_model(self, u: Tensor, alpha: float) -> Tensor:
        return u

    def operator(self, operator: Operator) -> Operator:
        """The operator as a function of native coordinates."""
        return operator

    def modules(self) -> list[nn.Module]:
        """Modules that a gradient passes through besides the model."""
        return []

    def check(self, x_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> None:
        """Raises Refusal when pictures of the measurement and states of the sampler differ in size."""


class PixelSpace(ModelSpace):
    """Models on [-1, 1] pictures, seen as [0, 1]."""

    scale = 2.0

    def to_native(self, x: Tensor, alpha: float) -> Tensor:
        return (x + alpha) / 2

    def to_model(self, u: Tensor, alpha: float) -> Tensor:
        return 2 * u - alpha

    def check(self, x_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> None:
        if tuple(x_shape[1:]) != tuple(image_shape):
            raise Refusal(
                f"The measurement speaks of a {image_shape[2]} x {image_shape[1]} picture and the latent is "
                f"{x_shape[3]} x {x_shape[2]}; make the latent with Starting Point from the same measurement."
            )


@dataclass(frozen=True)
class Decoded(Operator):
    """A(decode(z)): a measurement of the picture that a latent stands for. Not linear."""

    operator: Operator
    space: LatentSpace

    @property
    def label(self) -> str:
        return f"{self.operator.label} seen through a VAE"

    def forward(self, x: Tensor) -> Tensor:
        return self.operator.forward(self.space.decode(x))

    def support(self, y: Tensor) -> Tensor | None:
        return self.operator.support(y)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Decoded:
        return Decoded(self.operator.to(device, dtype), self.space)


class LatentSpace(ModelSpace):
    """Models on the latents of a VAE."""

    def __init__(self, model, vae):
        comfy.model_management.load_models_gpu([vae.patcher])
        self._format = model.latent_format
        self._vae = vae
        # most VAEs give [-1, 1]; those that give pictures as they are leave 0 where it is
        self._signed = float(vae.process_output(torch.zeros(1, 1, 1, 1)).mean()) != 0.0

    def decode(self, z: Tensor) -> Tensor:
        """The picture of a model-space latent, `B C H W`, not clamped, with its graph."""
        latent = self._format.process_out(z).to(self._vae.vae_dtype)
        image = self._vae.first_stage_model.decode(latent).to(z.dtype)
        return (image + 1) / 2 if self._signed else image

    def operator(self, operator: Operator) -> Operator:
        return Decoded(operator, self)

    def modules(self) -> list[nn.Module]:
        return [self._vae.first_stage_model]

    def check(self, x_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> None:
        ratio = self._vae.downscale_ratio
        if not isinstance(ratio, int):
            raise Refusal("This VAE is for video or sound; guidance works on pictures.")
        if (x_shape[2] * ratio, x_shape[3] * ratio) != tuple(image_shape[1:]):
            raise Refusal(
                f"The measurement speaks of a {image_shape[2]} x {image_shape[1]} picture and the latent decodes to "
                f"{x_shape[3] * ratio} x {x_shape[2] * ratio}; make both the same size."
            )


def space_of(model, vae) -> ModelSpace:
    """The space in which a host's `BaseModel` and an optional VAE meet a measurement.

    Raises:
        Refusal: for a latent model without a VAE, and for latents that are not pictures.
    """
    latent_format = model.latent_format
    if latent_format.latent_dimensions != 2:
        raise Refusal("This model makes video or sound; guidance works on picture models.")
    if is_latent_vae(vae):
        return LatentSpace(model, vae)
    if latent_format.latent_channels == 3:
        return PixelSpace()
    raise Refusal("This model works on latents, so guidance needs its VAE; connect the VAE to the guidance node.")
