"""The network of the embedded photo prior: a small, fully convolutional U-Net in pixel space.

It is the raw network F of EDM (Karras et al. 2022, https://arxiv.org/abs/2206.00364, section 5):

    D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)        c_skip = sigma_data^2 / (sigma^2 + sigma_data^2)
    c_in    = 1 / sqrt(sigma^2 + sigma_data^2)               c_out  = sigma sigma_data / sqrt(sigma^2 + sigma_data^2)
    c_noise = log(sigma) / 4                                 sigma_data = 0.5

with x in [-1, 1] and sigma in the same unit: the convention of the host's EDM model sampling, which multiplies by
c_in before the call and applies c_skip and c_out after it.
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

SIGMA_DATA = 0.5


def preconditioning(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in (B, 1, 1, 1) and c_noise (B,) of `sigma` (B,)."""
    s = rearrange(sigma, "b -> b 1 1 1")
    total = (s**2 + SIGMA_DATA**2).sqrt()
    return (SIGMA_DATA / total) ** 2, s * SIGMA_DATA / total, 1 / total, sigma.log() / 4


def denoise(model: nn.Module, x: Tensor, sigma: Tensor, given: Tensor | None = None) -> Tensor:
    """D(x; sigma) of x (B, C, H, W) in [-1, 1] units; given: what a conditional network is told."""
    c_skip, c_out, c_in, c_noise = preconditioning(sigma)
    return c_skip * x + c_out * model(beside(c_in * x, given), c_noise)


def beside(x: Tensor, given: Tensor | None) -> Tensor:
    """x (B, C, H, W) with the channels of a measurement behind its own."""
    return x if given is None else torch.cat([x, given], 1)


class ResBlock(nn.Module):
    """`x + conv2(relu(scale(e) conv1(x) + shift(e)))` with e the embedding of the noise level.

    There is no normalisation layer: statistics over the picture would tie a pixel to the size and the content of the
    whole picture. The second convolution starts at zero instead, so that a deep stack starts as the identity.
    """

    def __init__(self, channels: int, embedding: int, operations, **factory) -> None:
        super().__init__()
        self.conv1 = operations.Conv2d(channels, channels, 3, padding=1, **factory)
        self.conv2 = operations.Conv2d(channels, channels, 3, padding=1, **factory)
        self.film = operations.Linear(embedding, 2 * channels, **factory)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(x)
        scale, shift = rearrange(self.film(e), "b (two c) -> two b c 1 1", two=2).to(h.dtype)
        return x + self.conv2(F.relu(torch.addcmul(shift, h, scale + 1)))


class PhotoUNet(nn.Module):
    """F(c_in x; c_noise) for pictures of any size.

    Args:
        channels: width of each level; the first one works at half the resolution, each next one at half of that.
        blocks: residual blocks of each level, the same number on the way down and up (the last level has one way).
        embedding: width of the noise level's embedding.
        frequencies: number of cosine and sine pairs that describe the noise level.
        colours: channels of the picture.
        given: channels of a measurement that come behind those of x_t, for a network trained to use it.
        dtype, device, operations: how layers are made, as the host does it.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (96, 128, 192),
        blocks: tuple[int, ...] = (3, 2, 3),
        embedding: int = 64,
        frequencies: int = 16,
        colours: int = 3,
        given: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations=nn,
    ) -> None:
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.dtype = dtype  # the host asks its networks for it
        self.frequencies = frequencies
        self.stride = 2 ** len(channels)
        self.embed1 = operations.Linear(2 * frequencies, embedding, **factory)
        self.embed2 = operations.Linear(embedding, embedding, **factory)

        def level(width: int, depth: int) -> nn.ModuleList:
            return nn.ModuleList(ResBlock(width, embedding, operations, **factory) for _ in range(depth))

        pairs = list(zip(channels, channels[1:], strict=False))
        self.stem = operations.Conv2d((colours + given) * 4, channels[0], 3, padding=1, **factory)
        self.encoder = nn.ModuleList(level(c, n) for c, n in zip(channels[:-1], blocks, strict=False))
        self.down = nn.ModuleList(operations.Conv2d(a, b, 2, stride=2, **factory) for a, b in pairs)
        self.middle = level(channels[-1], blocks[-1])
        self.up = nn.ModuleList(operations.Conv2d(b, 4 * a, 1, **factory) for a, b in pairs)
        self.decoder = nn.ModuleList(level(c, n) for c, n in zip(channels[:-1], blocks, strict=False))
        self.head = operations.Conv2d(channels[0], colours * 4, 3, padding=1, **factory)

    def init_weights(self) -> PhotoUNet:
        """Start of a training: every residual branch, every noise modulation and the output are zero."""
        for name, p in self.named_parameters():
            if name.split(".")[-2] in ("conv2", "film", "head") or name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.ndim == 4:
                nn.init.kaiming_normal_(p, nonlinearity="relu" if "conv1" in name else "linear")
        return self

    def embed(self, c_noise: Tensor, dtype: torch.dtype) -> Tensor:
        """Embedding (B, E) of `c_noise` (B,): waves whose longest period, 5, covers sigma from e^-10 to e^10."""
        k = torch.arange(1, self.frequencies + 1, device=c_noise.device, dtype=torch.float32)
        angle = c_noise.float()[:, None] * k * (2 * math.pi / 5)
        waves = torch.cat([angle.cos(), angle.sin()], dim=1).to(dtype)
        return F.silu(self.embed2(F.silu(self.embed1(waves))))

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        control: dict | None = None,
        transformer_options: dict | None = None,
        **kwargs,
    ) -> Tensor:
        """F for `x` = c_in x_sigma of shape (B, 3, H, W) and `timesteps` = c_noise of shape (B,); same shape as x.

        The remaining arguments are the host's; this prior has no text and no control.
        """
        height, width = x.shape[-2:]
        e = self.embed(timesteps.expand(x.shape[0]), x.dtype)
        h = F.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")
        h = self.stem(F.pixel_unshuffle(h, 2))
        skips = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            for block in blocks:
                h = block(h, e)
            skips.append(h)
            h = down(h)
        for block in self.middle:
            h = block(h, e)
        for blocks, up in zip(reversed(self.decoder), reversed(self.up), strict=True):
            h = F.pixel_shuffle(up(h), 2) + skips.pop()
            for block in blocks:
                h = block(h, e)
        return F.pixel_shuffle(self.head(h), 2)[..., :height, :width]

    @staticmethod
    def config_from_state_dict(sd: dict[str, Tensor]) -> dict:
        """The constructor's arguments, read from the shapes of a state dict."""

        def count(prefix: str) -> int:
            return len({k[len(prefix) :].split(".")[0] for k in sd if k.startswith(prefix)})

        levels = count("down.")
        widths = [sd["stem.weight"].shape[0]] + [sd[f"down.{i}.weight"].shape[0] for i in range(levels)]
        depths = [count(f"encoder.{i}.") for i in range(levels)] + [count("middle.")]
        embedding, waves = sd["embed1.weight"].shape
        colours = sd["head.weight"].shape[0] // 4
        given = sd["stem.weight"].shape[1] // 4 - colours
        return {
            "channels": tuple(widths), "blocks": tuple(depths), "embedding": embedding, "frequencies": waves // 2,
            "colours": colours, "given": given,
        }  # fmt: skip
