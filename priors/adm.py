"""The U-Net of the ablated diffusion model (Dhariwal and Nichol 2021), https://arxiv.org/abs/2105.05233.

Residual blocks with group norm and SiLU, the time embedding as a shift (or scale and shift) in each, self-attention at
some resolutions. Its many variants are read from a state dict in the layer names of the authors' release: every block
is built as wide and of the kind that its own weights say. What weights do not say (`head_channels`, ...) is passed on.

It predicts the noise eps from x_t / sqrt(1 + sigma^2) in [-1, 1] units and the time step 0 to 999; a learned variance,
the second half of the output channels, is cut off.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..algebra.refusal import Refusal


class Residual(nn.Module):
    """skip(x) + conv(act(norm(conv(act(norm(x)))))), the embedding added or applied as scale and shift in between."""

    def __init__(self, size: tuple[int, int], embedding: int, scale_shift: bool, kernel: int, resample: str, make):
        super().__init__()
        c_in, c_out = size
        self.scale_shift, self.resample = scale_shift, resample
        self.in_layers = nn.Sequential(make.norm(c_in), nn.SiLU(), make.conv(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), make.linear(embedding, c_out * (2 if scale_shift else 1)))
        self.out_layers = nn.Sequential(
            make.norm(c_out), nn.SiLU(), nn.Identity(), make.conv(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = make.conv(c_in, c_out, kernel, padding=kernel // 2) if kernel else nn.Identity()

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0) if self.resample == "up" else x

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, act, conv = self.in_layers
        h = conv(self._resampled(act(norm(x))))
        e = self.emb_layers(emb)[..., None, None]
        norm, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = e.chunk(2, 1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + e)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(self._resampled(x)) + h


class Attention(nn.Module):
    """x + proj(attention(norm(x))) over all pixels."""

    def __init__(self, channels: int, normed: bool, head_channels: int | None, heads: int, interleaved: bool, make):
        super().__init__()
        self.heads = heads or channels // (head_channels or channels)
        if not self.heads or channels % self.heads or (not heads and head_channels and channels % head_channels):
            raise Refusal(f"Attention of {channels} channels cannot have heads of this size; choose another one.")
        self.order = "b (h three d) t -> three b h t d" if interleaved else "b (three h d) t -> three b h t d"
        self.norm = make.norm(channels) if normed else nn.Identity()
        self.qkv = make.conv1d(channels, 3 * channels, 1)
        self.proj_out = make.conv1d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x).flatten(2))
        q, k, v = rearrange(qkv, self.order, three=3, h=self.heads).unbind(0)
        attended = rearrange(F.scaled_dot_product_attention(q, k, v), "b h t d -> b (h d) t")
        return x + self.proj_out(attended).reshape(x.shape)


class Down(nn.Module):
    """A convolution of stride 2; asymmetric padding adds the border at the right and the bottom only."""

    def __init__(self, size: tuple[int, int], asymmetric: bool, make):
        super().__init__()
        self.asymmetric = asymmetric
        self.op = make.conv(*size, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.op(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Up(nn.Module):
    """Pixels doubled, then a convolution."""

    def __init__(self, size: tuple[int, int], make):
        super().__init__()
        self.conv = make.conv(*size, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0))


class _Make:
    """Layers from the host's `operations`."""

    def __init__(self, operations, groups: int, eps: float, **factory):
        self.conv = lambda *a, **k: operations.Conv2d(*a, **k, **factory)
        self.conv1d = lambda *a: operations.Conv1d(*a, **factory)
        self.linear = lambda *a: operations.Linear(*a, **factory)
        self.norm = lambda channels: operations.GroupNorm(groups, channels, eps=eps, **factory)
        self.embedding = lambda *a: operations.Embedding(*a, **factory)


class ADM(nn.Module):
    """The network, in the host's signature.

    Args:
        blocks: for each of `input_blocks`, `middle_block`, `output_blocks` a list of blocks, each a list of layers
            (kind, channels in, channels out, further facts), as `config_from_state_dict` finds them.
        waves: size of the time step's sinusoids.
        embedding: size of their embedding.
        outputs: channels of the prediction, 6 with a learned variance.
        classes: number of classes of a class-conditional model, 0 without.
        label: the class to sample, 0 <= label < classes.
        head_channels: channels of an attention head; None for one head.
        heads: number of attention heads instead, 0 to go by `head_channels`.
        interleaved: whether q, k and v are stored head by head (the original order) or one after another.
        groups, eps: of the group norms.
        sine_first, frequency_shift: of the sinusoids, sin before cos, exp(-log(10^4) i / (waves / 2 - shift)).
        asymmetric: whether strided convolutions are padded at the right and the bottom only.
        dtype, device, operations: how layers are made, as the host does it.

    Raises:
        Refusal: for a class that the model does not know, or a head size that does not divide the channels.
    """

    def __init__(
        self,
        blocks: dict[str, list],
        waves: int,
        embedding: int,
        outputs: int,
        classes: int = 0,
        label: int = 0,
        head_channels: int | None = 64,
        heads: int = 0,
        interleaved: bool = True,
        groups: int = 32,
        eps: float = 1e-5,
        sine_first: bool = False,
        frequency_shift: float = 0.0,
        asymmetric: bool = False,
        dtype=None,
        device=None,
        operations=nn,
    ):
        super().__init__()
        if classes and not 0 <= label < classes:
            raise Refusal(f"This model knows the classes 0 to {classes - 1}; choose one of them instead of {label}.")
        make = _Make(operations, groups, eps, dtype=dtype, device=device)
        self.dtype = dtype  # the host asks its networks for it
        self.waves, self.sine_first, self.frequency_shift = waves, sine_first, frequency_shift
        self.label = label if classes else None

        def layer(kind: str, c_in: int, c_out: int, **facts: Any) -> nn.Module:
            if kind == "residual":
                return Residual((c_in, c_out), embedding, make=make, **facts)
            if kind == "attention":
                return Attention(
                    c_in, head_channels=head_channels, heads=heads, interleaved=interleaved, make=make, **facts
                )
            if kind == "down":
                return Down((c_in, c_out), asymmetric, make)
            return Up((c_in, c_out), make) if kind == "up" else make.conv(c_in, c_out, 3, padding=1)

        def stage(name: str) -> nn.ModuleList:
            return nn.ModuleList(
                nn.ModuleList(layer(kind, c_in, c_out, **facts) for kind, c_in, c_out, facts in block)
                for block in blocks[name]
            )

        self.time_embed = nn.Sequential(make.linear(waves, embedding), nn.SiLU(), make.linear(embedding, embedding))
        if classes:
            self.label_emb = make.embedding(classes, embedding)
        self.input_blocks, self.output_blocks = stage("input_blocks"), stage("output_blocks")
        (self.middle_block,) = stage("middle_block")
        width = blocks["output_blocks"][-1][0][2]
        self.out = nn.Sequential(make.norm(width), nn.SiLU(), make.conv(width, outputs, 3, padding=1))
        kinds = [facts.get("resample") or kind for block in blocks["input_blocks"] for kind, _, _, facts in block]
        self.stride = 2 ** kinds.count("down")

    def _embed(self, timesteps: Tensor, x: Tensor) -> Tensor:
        half = self.waves // 2
        i = torch.arange(half, dtype=torch.float32, device=x.device)
        angles = timesteps.float()[:, None] * torch.exp(-math.log(10000) * i / (half - self.frequency_shift))
        pair = (angles.sin(), angles.cos()) if self.sine_first else (angles.cos(), angles.sin())
        emb = self.time_embed(torch.cat(pair, 1).to(x.dtype))
        if self.label is not None:
            label = torch.full((1,), self.label, dtype=torch.long, device=x.device)
            emb = emb + self.label_emb(label).to(x.dtype)
        return emb

    def forward(self, x: Tensor, timesteps: Tensor, **kwargs) -> Tensor:
        """The predicted noise, `B 3 H W`, for x `B 3 H W` of any size and timesteps `B`."""
        height, width = x.shape[-2:]
        emb = self._embed(timesteps.expand(len(x)), x)
        h = F.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")
        (first,) = self.input_blocks[0]
        h = first(h)
        skips = [h]
        for block in self.input_blocks[1:]:
            for layer in block:
                h = layer(h, emb)
            skips.append(h)
        for layer in self.middle_block:
            h = layer(h, emb)
        for block in self.output_blocks:
            h = torch.cat([h, skips.pop()], 1)
            for layer in block:
                h = layer(h, emb)
        return self.out(h)[:, : x.shape[1], :height, :width]

    @staticmethod
    def config_from_state_dict(sd: dict[str, Tensor]) -> dict[str, Any]:
        """What the weights say about the constructor's arguments; KeyError or ValueError when they are not ADM's."""
        blocks = {name: _stage(sd, name) for name in ("input_blocks", "middle_block", "output_blocks")}
        # the last block of each level but the finest ends in an upsampling; the encoder has one block less a level
        ups = [index for index, block in enumerate(blocks["output_blocks"]) if _resampler(block)]
        ends = [*ups, len(blocks["output_blocks"]) - 1]
        depths = [end - start - 1 for start, end in zip([-1, *ends[:-1]], ends, strict=True)][::-1]
        position = 0
        for depth in depths[:-1]:
            position += depth + 1
            facts = blocks["input_blocks"][position][0][3]
            if "resample" in facts:
                facts["resample"] = "down"
        if len(blocks["input_blocks"]) != sum(depths) + len(depths):
            raise ValueError("encoder and decoder do not match")
        embedding, waves = sd["time_embed.0.weight"].shape
        label = sd.get("label_emb.weight")
        return {
            "blocks": blocks, "waves": waves, "embedding": embedding, "outputs": sd["out.2.weight"].shape[0],
            "classes": 0 if label is None else label.shape[0],
        }  # fmt: skip


def _resampler(block: list) -> bool:
    """Whether a decoder's block ends in an upsampling; a residual layer that comes second is one, too."""
    kind, _, _, facts = block[-1]
    if len(block) > 1 and kind == "residual":
        facts["resample"] = "up"
    return len(block) > 1 and kind in ("residual", "up")


def _numbers(sd: dict[str, Tensor], prefix: str) -> list[int]:
    return sorted({int(key[len(prefix) :].split(".")[0]) for key in sd if key.startswith(prefix)})


def _stage(sd: dict[str, Tensor], name: str) -> list[list]:
    """The layers of each block of a stage; the middle is one block."""
    prefixes = [f"{name}."] if name == "middle_block" else [f"{name}.{i}." for i in _numbers(sd, f"{name}.")]
    return [[_layer(sd, f"{prefix}{k}.") for k in _numbers(sd, prefix)] for prefix in prefixes]


def _layer(sd: dict[str, Tensor], prefix: str) -> tuple[str, int, int, dict]:
    """(kind, channels in, channels out, facts) of the layer whose keys begin with `prefix`."""

    def size(name: str) -> tuple[int, int]:
        c_out, c_in = sd[prefix + name].shape[:2]
        return c_in, c_out

    if prefix + "in_layers.0.weight" in sd:
        c_in, c_out = size("in_layers.2.weight")
        skip = sd.get(prefix + "skip_connection.weight")
        facts = {
            "scale_shift": sd[prefix + "emb_layers.1.weight"].shape[0] == 2 * c_out,
            "kernel": 0 if skip is None else skip.shape[-1],
            "resample": "",
        }
        return "residual", c_in, c_out, facts
    if prefix + "qkv.weight" in sd:
        channels = size("qkv.weight")[0]
        return "attention", channels, channels, {"normed": prefix + "norm.weight" in sd}
    for kind, name in (("down", "op.weight"), ("up", "conv.weight"), ("conv", "weight")):
        if prefix + name in sd:
            return kind, *size(name), {}
    raise KeyError(prefix)
