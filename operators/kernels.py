"""Blur kernels: odd-sized, non-negative, sum 1, as `1 1 h w` float32 tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..algebra.refusal import Refusal


def gaussian(sigma: float) -> Tensor:
    """exp(-r^2 / (2 sigma^2)) cut at 4 sigma and normalised. sigma > 0, in pixels."""
    radius = max(1, math.ceil(4 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    line = torch.exp(-(offsets**2) / (2 * sigma**2))
    line = line / line.sum()
    return torch.outer(line, line).float()[None, None]


def disk(radius: float, samples: int = 16) -> Tensor:
    """A lens out of focus: uniform over r <= radius, edge pixels by the part of them that is covered.

    Args:
        radius: > 0, pixels.
        samples: points per pixel and axis that decide how much of it is covered.
    """
    reach = max(1, math.ceil(radius - 0.5))
    n = 2 * reach + 1
    points = (torch.arange(n * samples, dtype=torch.float64) + 0.5) / samples - n / 2
    inside = (points[:, None] ** 2 + points[None] ** 2 <= radius**2).double()
    covered = inside.reshape(n, samples, n, samples).mean((1, 3))
    return (covered / covered.sum()).float()[None, None]


def rasterised(path: Tensor) -> Tensor:
    """The kernel of a camera that moves along a path at even pace: each point is spread over its four pixels.

    Args:
        path: `n 2`, positions (x right, y down) in pixels around the kernel's centre.
    """
    reach = max(1, math.ceil(path.abs().max().item()))
    n = 2 * reach + 1
    where = path.double() + reach
    corner = where.floor().clamp(0, n - 2)
    part = where - corner
    kernel = torch.zeros(n * n, dtype=torch.float64)
    for dx in (0, 1):
        for dy in (0, 1):
            share = (part[:, 0] if dx else 1 - part[:, 0]) * (part[:, 1] if dy else 1 - part[:, 1])
            kernel.index_add_(0, ((corner[:, 1] + dy) * n + corner[:, 0] + dx).long(), share)
    return (kernel / kernel.sum()).float().reshape(1, 1, n, n)


def motion(length: float, angle: float) -> Tensor:
    """A straight movement, centred. length >= 0 in pixels, angle in degrees, anticlockwise from horizontal."""
    along = torch.linspace(-0.5, 0.5, 64 * max(1, math.ceil(length)) + 1, dtype=torch.float64) * length
    radians = math.radians(angle)
    return rasterised(torch.stack([along * math.cos(radians), -along * math.sin(radians)], 1))


def camera_shake(size: float, seed: int = 0, points: int = 2000) -> Tensor:
    """A hand that trembles: a random walk of the velocity with damping, scaled to the size and centred on its mean.

    Args:
        size: largest distance from the centre, pixels, > 0.
        seed: chooses the path.
        points: length of the walk.
    """
    push = torch.randn(points, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    velocity = torch.zeros(2, dtype=torch.float64)
    steps = []
    for kick in push:
        velocity = 0.99 * velocity + kick  # remembers about 100 of the 2000 points: some ten turns
        steps.append(velocity)
    path = torch.stack(steps).cumsum(0)
    path = path - path.mean(0)
    return rasterised(path * (size / path.norm(dim=1).max()))


def from_picture(image: Tensor) -> Tensor:
    """Kernels given as pictures: bright is where light goes; each is divided by its sum.

    Args:
        image: `B C h w` >= 0, odd sides; colours are averaged.

    Returns:
        `B 1 h w`.

    Raises:
        Refusal: for even sides, and for a black picture.
    """
    kernel = image.double().mean(1, keepdim=True).clamp_min(0)
    h, w = kernel.shape[-2:]
    if h % 2 == 0 or w % 2 == 0:
        raise Refusal(f"The kernel picture is {w} x {h}; give it odd sides, so that it has a centre.")
    total = kernel.sum((-2, -1), keepdim=True)
    if (total <= 0).any():
        raise Refusal("The kernel picture is black; paint the path of the light in white.")
    return (kernel / total).float()
