"""The host's VAE as a differentiable pair of functions, for pictures of any size.

The host's own `decode` cuts values off, leaves the device and may go through tiles that do not fit each other. Here
nothing is cut off, and a gradient that is too large for the memory is made in one of two sparing ways:

    checkpointed  blocks of the decoder keep their inputs only and run again in the backward pass
    in tiles      windows of the latent go one after the other, see `tiles`

A VAE of video sees a picture as the first frame, which has no past.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from weakref import WeakKeyDictionary

import comfy.model_patcher
import comfy.sd
import comfy.taesd.taesd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...algebra.refusal import Refusal
from ..autograd.checkpointed import checkpointed_blocks
from ..autograd.frozen import Frozen
from ..autograd.gradients import exchanged, is_dynamic, normal_tree
from ..autograd.memory_plan import MemoryPlan
from .latents import of_vae, one_frame, picture_ratio
from .tiles import MARGIN, DecodedInTiles
from .video import without_past

#: peak of a decoder's gradient over the host's estimate for decoding: SD's decoder, TAESD (0.51 and 0.08 MiB a latent
#: pixel in float32)
_GRAPH, _GRAPH_TINY = 1.0, 0.2
#: what is left of it with checkpoints, and without any gradient (SD's; checkpoints save nothing in TAESD)
_CHECKPOINTED, _FORWARD = 0.8, 0.43
#: that of a window, whose normalisation keeps a little more
_WINDOW = 1.15


def is_latent_vae(vae) -> bool:
    """Whether a VAE changes coordinates; none, and the host's `pixel_space` choice, do not.

    Raises:
        Refusal: for what a loader gives for a checkpoint that has none.
    """
    if vae is not None and getattr(vae, "first_stage_model", None) is None:
        raise Refusal("The VAE is empty, since its file holds none; connect one from Load VAE.")
    return vae is not None and "pixel_space_vae" not in dict(vae.first_stage_model.named_parameters(recurse=False))


def latent_size(vae, height: int, width: int) -> tuple[int, int]:
    """The smallest latent whose picture holds one of the given size."""
    ratio = picture_ratio(vae)
    return -(-height // ratio), -(-width // ratio)


def padded(image: Tensor, height: int, width: int) -> Tensor:
    """A picture `B C H W` whose last row and column are repeated up to a size that a VAE takes."""
    return F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]), mode="replicate")


#: the static VAE of each network whose weights move, for as long as the host keeps that network
_STATIC: WeakKeyDictionary = WeakKeyDictionary()


def is_sound(made: Tensor, given: Tensor) -> Tensor:
    """Whether numbers that were all right became numbers; one bool, which nobody has waited for yet."""
    return torch.isfinite(made).all() | ~torch.isfinite(given).all()


def require_sound(sound: Tensor) -> None:
    """Refuses a VAE that is not sound, see `is_sound`."""
    if not sound:
        raise Refusal(
            "The VAE makes NaN or infinite values; run it at full precision (--fp32-vae), or connect another one."
        )


def require_numbers(made: Tensor, given: Tensor) -> None:
    """Refuses what a VAE made of numbers that were all right."""
    require_sound(is_sound(made, given))


def static_vae(vae):
    """The VAE, or one of the same weights where a newer host would move them before a backward pass has used them."""
    if not is_dynamic(vae.patcher):
        return vae
    if vae.first_stage_model not in _STATIC:
        _STATIC[vae.first_stage_model] = _static(vae)
    return _STATIC[vae.first_stage_model]


def _static(vae):
    static = copy.copy(vae)
    static.first_stage_model = comfy.sd.VAE(
        sd=vae.first_stage_model.state_dict(), device=vae.device, dtype=vae.vae_dtype
    ).first_stage_model
    static.patcher = comfy.model_patcher.ModelPatcher(
        static.first_stage_model, vae.patcher.load_device, vae.patcher.offload_device
    )
    return static


class Autoencoder:
    """D and E of one run (`measurement.decoded.Codec`), between the model's latents and pictures in [0, 1].

    Pictures may be smaller than what the latent decodes to: they are its upper left corner. The VAE may be on another
    device than the latents, as with --cpu-vae.

    Args:
        vae: the host's VAE, loaded.
        latent_format: of the model.
        picture: (H, W).
        plan: how a gradient pass is made; may be changed between calls.
    """

    def __init__(self, vae, latent_format, picture: tuple[int, int], latent: tuple[int, int], plan: MemoryPlan):
        self._vae, self._ratio, self._framed = vae, picture_ratio(vae), of_vae(vae).framed
        self._format = copy.copy(latent_format)  # whose means and deviations a gradient passes
        vars(self._format).update(normal_tree(vars(latent_format)))
        self._picture, self._latent, self.plan = picture, latent, plan
        #: whether all that was made so far were numbers; asked for when a device is waited for anyway
        self.sound: Tensor | bool = True
        # most VAEs give [-1, 1]; those that give pictures as they are leave 0 where it is
        self._signed = float(vae.process_output(torch.zeros(1, 1, 1, 1)).mean()) != 0.0

    def decode(self, z: Tensor) -> Tensor:
        """The picture of a latent in model space, `B C H W`, not cut to [0, 1]."""
        latent = self._format.process_out(self._in_time(z)).to(self._vae.device, self._vae.vae_dtype)
        image = one_frame(torch.cat([self._decode(sample) for sample in self._pieces(latent)]))
        image = image[..., : self._picture[0], : self._picture[1]].to(z)
        self.sound = self.sound & is_sound(image, z)
        return (image + 1) / 2 if self._signed else image

    def encode(self, x: Tensor) -> Tensor:
        """The latent of a picture, in model space, `B C h w`; the mean where the encoder is random."""
        image = padded(x, *(self._ratio * side for side in self._latent))
        image = self._in_time(self._vae.process_input(image)).to(self._vae.device, self._vae.vae_dtype)
        model = self._vae.first_stage_model
        with ExitStack() as stack:
            stack.enter_context(Frozen())
            stack.enter_context(exchanged(without_past(model)))
            if image.requires_grad and self.plan.decoder:
                stack.enter_context(checkpointed_blocks(units(model), []))
            latent = torch.cat([model.encode(_laid_out(sample)) for sample in self._pieces(image)]).to(x)
        self.sound = self.sound & is_sound(latent, x)
        return one_frame(self._format.process_in(latent))

    def _in_time(self, x: Tensor) -> Tensor:
        """`B C H W` as the VAE and the latent format take it."""
        return x[:, :, None] if self._framed else x

    def _pieces(self, batch: Tensor) -> tuple[Tensor, ...]:
        """One picture at a time, except where the graph of all fits anyway."""
        return batch.split(len(batch) if batch.requires_grad and not self.plan.decoder else 1)

    def _decode(self, latent: Tensor) -> Tensor:
        model, plan = self._vae.first_stage_model, self.plan
        latent = _laid_out(latent)
        if latent.requires_grad and plan.tile:
            return DecodedInTiles.apply(latent, model, plan.tile)
        with ExitStack() as stack:
            stack.enter_context(Frozen())
            stack.enter_context(exchanged(without_past(model)))
            if latent.requires_grad and plan.decoder:
                stack.enter_context(checkpointed_blocks(units(model), []))
            return model.decode(latent)


def _laid_out(x: Tensor) -> Tensor:
    """`B C H W` as convolutions on a CPU like it best, the channels of a pixel side by side."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" and x.ndim == 4 else x


def decoder_graph_memory(vae, shape: tuple[int, ...], plan: MemoryPlan) -> float:
    """Estimated bytes that decoding a latent of this shape takes together with its gradient."""
    tiny = isinstance(vae.first_stage_model, comfy.taesd.taesd.TAESD)

    frames = (1,) if of_vae(vae).framed else ()

    def gradient(*sides: int) -> float:
        return vae.memory_used_decode((1, shape[1], *frames, *sides), vae.vae_dtype) * (_GRAPH_TINY if tiny else _GRAPH)

    one = gradient(*shape[2:])
    if plan.tile:
        window = gradient(*(min(side, plan.tile + 2 * MARGIN) for side in shape[2:]))
        return max(_FORWARD * one, _WINDOW * window)
    return shape[0] * one * (_CHECKPOINTED if plan.decoder else 1.0)


def units(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks of an autoencoder: what holds layers of its own, and no rows of blocks beside them."""
    for child in module.children():
        parts = list(child.children())
        rows = any(_is_row(part) for part in parts)
        layers = any(next(part.children(), None) is None and not isinstance(part, nn.ModuleList) for part in parts)
        if layers and not rows and not isinstance(child, nn.ModuleList | nn.Sequential):
            yield child
        else:
            yield from units(child)


def _is_row(part: nn.Module) -> bool:
    """A list of blocks, or a sequence of what has layers of its own."""
    blocks = isinstance(part, nn.Sequential) and any(next(item.children(), None) is not None for item in part)
    return blocks or (isinstance(part, nn.ModuleList) and len(part) > 0)
