"""What a model's latents are, read off what the host says of the model and of its VAE; names of families play no part.

    axes         latents                    models
    h w          of a picture VAE           SD1.5, SDXL, SD3, AuraFlow, PixArt, HunyuanDiT (4 or 16 channels, ratio 8);
                                            Flux, Chroma, Lumina 2, Z-Image, HiDream, OmniGen 2 (16, 8);
                                            Flux.2 (128, 16); HunyuanImage 2.1 (64, 32)
    1 h w        of a video VAE that is     Qwen-Image, Wan 2.1 and Cosmos Predict 2 as text-to-image (16, 8);
                 causal in time: its first  Wan 2.2 5B (48, 16)
                 frame is a picture
    H W          the picture in [-1, 1]     Chroma Radiance and other models of pixels (3, 1)

Scale and shift between what the VAE makes and what the model takes are the model's `latent_format`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ...algebra.refusal import Refusal


class Latents(NamedTuple):
    """What a model works on or a VAE makes.

    Args:
        channels: 3 where a picture is its own latent.
        framed: whether they have a time axis, `B C 1 h w`, of which a picture fills one frame.
    """

    channels: int
    framed: bool


def of_model(latent_format) -> Latents:
    """The latents that a model works on.

    Raises:
        Refusal: for sound and shapes.
    """
    if latent_format.latent_dimensions not in (2, 3):
        raise Refusal("This model makes sound or shapes; guidance works on models that make pictures.")
    return Latents(latent_format.latent_channels, latent_format.latent_dimensions == 3)


def of_vae(vae) -> Latents:
    """The latents that a VAE makes.

    Raises:
        Refusal: for VAEs of sound, and of video whose first frame is not a picture by itself.
    """
    picture_ratio(vae)
    return Latents(vae.latent_channels, vae.latent_dim == 3)


def picture_ratio(vae) -> int:
    """Pixels to a latent pixel.

    Raises:
        Refusal: as `of_vae`.
    """
    ratio = vae.downscale_ratio
    if vae.latent_dim == 2 and isinstance(ratio, int):
        return ratio
    if vae.latent_dim == 3 and isinstance(ratio, tuple):
        _, height, width = ratio
        pictures = vae.upscale_ratio[0]
        if height == width and callable(pictures) and pictures(1) == 1:  # causal in time
            return height
    raise Refusal("This VAE is for video or sound, and makes no latents of single pictures; connect another one.")


def one_frame(x: Tensor) -> Tensor:
    """`B C 1 h w` as `B C h w`; what has no time axis as it is.

    Raises:
        Refusal: for a video.
    """
    if x.ndim == 4:
        return x
    if x.ndim != 5 or x.shape[2] != 1:
        raise Refusal(
            "This latent is a video or sound; guidance works on pictures, so give a latent of one frame (length 1)."
        )
    return x[:, :, 0]
