"""Autoencoders whose latent problems are known: a linear one from photographs, and a small nonlinear one."""

from __future__ import annotations

from functools import cache

import torch
from einops import rearrange
from torch import Tensor, nn

from posterior.photos import PHOTOS, load_photo
from posterior.priors.gaussian import Gaussian

F64 = torch.float64


def patches(x: Tensor) -> Tensor:
    return rearrange(x, "b c (h p) (w q) -> b (c p q) h w", p=8, q=8)


@cache
def photo_patches(size: int = 128) -> Tensor:
    """All 8 x 8 x 3 patches of the photos in [-1, 1], `N 192`, float64."""
    photos = torch.cat([load_photo(name, size) for name in PHOTOS]).movedim(-1, 1).to(F64)
    return patches(2 * photos - 1).movedim(1, -1).flatten(0, 2)


class PatchPCA(nn.Module):
    """Patches of 8 x 8 x 3 to their first 16 principal components and back: D is affine, E its inverse on the range.

    As a host's `first_stage_model` it speaks of pictures in [-1, 1]; as a codec (`pictures=True`) of [0, 1].
    """

    def __init__(self, channels: int = 16, pictures: bool = False):
        super().__init__()
        data = photo_patches()
        self.mean = nn.Parameter(data.mean(0), requires_grad=False)
        _, values, rows = torch.linalg.svd(data - self.mean, full_matrices=False)
        self.rows = nn.Parameter(rows[:channels].contiguous(), requires_grad=False)
        self.scale = (values[:channels].square().mean() / len(data)).sqrt().item()  # latents have unit variance
        self.pictures = pictures

    def decode(self, z: Tensor) -> Tensor:
        flat = torch.einsum("bkhw,kn->bnhw", self.scale * z, self.rows) + self.mean[:, None, None]
        x = rearrange(flat, "b (c p q) h w -> b c (h p) (w q)", p=8, q=8)
        return (x + 1) / 2 if self.pictures else x

    def encode(self, x: Tensor) -> Tensor:
        x = 2 * x - 1 if self.pictures else x
        return torch.einsum("bnhw,kn->bkhw", patches(x) - self.mean[:, None, None], self.rows) / self.scale


@cache
def latent_prior(side: int = 16) -> Gaussian:
    """The Gaussian of the latents of all `side` x `side` squares of the photos, `16 side/8 side/8`, float64."""
    photos = torch.cat([load_photo(name, 128) for name in PHOTOS]).movedim(-1, 1).to(F64)
    squares = photos.unfold(2, side, 4).unfold(3, side, 4)
    squares = rearrange(squares, "b c h w i j -> (b h w) c i j")
    return Gaussian.from_pictures(PatchPCA(pictures=True).encode(squares), 0.05)


class SmallAutoencoder(nn.Module):
    """A nonlinear autoencoder of random weights: 2 x 2 x 3 to 2 numbers, in [0, 1], float64."""

    def __init__(self, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            weight = torch.randn(shape, generator=generator, dtype=F64) / shape[1] ** 0.5
            return nn.Parameter(weight, requires_grad=False)

        self.up, self.out, self.inner, self.down = drawn(6, 2), drawn(12, 6), drawn(6, 12), drawn(2, 6)

    def decode(self, z: Tensor) -> Tensor:
        h = torch.einsum("bchw,kc->bkhw", z, self.up).tanh()
        h = h + 0.3 * h.roll(1, -1) * h.roll(1, -2)  # neighbours act on each other
        flat = torch.einsum("bchw,kc->bkhw", h, self.out).sigmoid()
        return rearrange(flat, "b (c p q) h w -> b c (h p) (w q)", p=2, q=2)

    def encode(self, x: Tensor) -> Tensor:
        flat = rearrange(x, "b c (h p) (w q) -> b (c p q) h w", p=2, q=2)
        h = torch.einsum("bchw,kc->bkhw", flat, self.inner).tanh()
        return torch.einsum("bchw,kc->bkhw", h, self.down)
