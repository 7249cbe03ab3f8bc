"""The kernel of any shape that is read off a picture, beside the one that was done to it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from posterior.algebra.checkpoint import watched
from posterior.algebra.refusal import Refusal
from posterior.benchmarks.blind_kernels import correlation
from posterior.measurement.kernel_estimate import Level, estimate_kernel, pyramid
from posterior.operators.convolution import convolution
from posterior.operators.kernels import camera_shake


def leaves(side: int, seed: int = 0) -> Tensor:
    """Discs that hide one another, which have the edges of photographs (Lee, Mumford and Huang 2001), `1 3 n n`."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.full((3, side, side), 0.5)
    line = torch.arange(side)
    for _ in range(400):
        top, left, size, *colour = torch.rand(6, generator=draw).tolist()
        radius = 3 / (1 - 0.9 * size)
        disc = (line[:, None] - side * top) ** 2 + (line - side * left) ** 2 <= radius**2
        x[:, disc] = 0.1 + 0.8 * torch.tensor(colour)[:, None]
    return x[None]


def test_the_path_of_a_shaken_camera_is_found():
    """By a border that is really cut: the picture goes on beyond the frame."""
    kernel = camera_shake(6.0, 3)
    y = convolution(kernel, "valid").forward(leaves(128))
    y = y + 0.01 * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    done: list[float | None] = []
    with watched(done.append):
        shake = estimate_kernel((255 * y.clamp(0, 1)).round() / 255, 15)
    found = shake.kernel
    assert shake.clear and not estimate_kernel(leaves(128), 9).clear
    assert found.shape[-1] in (7, 11, 15) and (found >= 0).all() and found.sum().item() == pytest.approx(1, abs=1e-5)
    assert correlation(found, kernel) > 0.8
    flat = torch.zeros(1, 1, 15, 15)
    flat[..., 7, 7] = 1
    assert correlation(flat, kernel) < 0.6
    told_so = [share for share in done if share is not None]
    assert len(done) > 10 and told_so == sorted(told_so) and told_so[-1] == 1


def test_a_picture_of_few_edges_is_its_own_poster_and_gives_back_its_kernel():
    x, kernel = leaves(128), camera_shake(4.0, 2)
    y = convolution(kernel).forward(x).mean(1, keepdim=True)
    level, dot = Level(y, 9), torch.zeros(1, 1, 9, 9)
    dot[..., 4, 4] = 1
    torch.testing.assert_close(level.poster(dot, 1e-12), level.y, rtol=0.0, atol=1e-4)
    known = Level(x.mean(1, keepdim=True), 9)
    k = torch.full((1, 1, 9, 9), 1 / 81)
    for _ in range(6):
        k = level.kernel(known.y, k)
    assert correlation(k, kernel) > 0.98


def test_the_pyramid_ends_at_the_size_asked_for():
    for size in range(3, 102, 2):
        sizes = pyramid(size)
        assert sizes[0] == 3 and sizes[-1] == size and all(n % 2 for n in sizes) and sizes == sorted(set(sizes))


def test_what_is_too_small_is_refused():
    with pytest.raises(Refusal, match="64 x 64"):
        estimate_kernel(torch.rand(1, 3, 48, 48), 9)
    with pytest.raises(Refusal, match="202 x 202"):
        estimate_kernel(torch.rand(1, 3, 128, 128), 101)
