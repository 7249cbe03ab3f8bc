"""A flow model of gray pictures: flow matching, its ODE, and the RGB model that it is.

Flow matching (Lipman et al. 2023, https://arxiv.org/abs/2210.02747; rectified flow, Liu et al. 2023,
https://arxiv.org/abs/2209.03003): with x_t = (1 - t) x_0 + t z, t from 0 (a picture) to 1 (noise),

    L = E norm(v(x_t, t) - (z - x_0))^2,    dx/dt = v(x_t, t),    x0_hat = x_t - t v(x_t, t)

x_t / (1 - t) is x_0 with a noise of sigma = t / (1 - t), so that a network D(x; sigma) of the digits prior (`unet`) is
one of velocities as well: v = (x_t - D(x_t / (1 - t); sigma)) / t. Above sigma = 80, where nothing is left of x_0 and
the prior has learnt nothing more, it counts as 80. Pictures are in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn

from .gray import GrayAsColour
from .unet import denoise

#: the least 1 - t
_LEAST = 1 / 81


def velocity(denoiser: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor) -> Tensor:
    """v(x_t, t) of x `B C H W` and t in (0, 1], (B,). denoiser: (x, sigma) to x0_hat."""
    keep = (1 - t).clamp_min(_LEAST)
    x0 = denoiser(x / wide(keep), (1 - keep) / keep)
    return (x - x0) / wide(t)


def flow_loss(network: nn.Module, x: Tensor, t: Tensor, target: Tensor) -> Tensor:
    """The squared error of v at x_t, one number a picture (B,). target: z - x_0, or what else v is to be."""
    v = velocity(lambda x, sigma: denoise(network, x, sigma), x, t)
    return (v - target).square().mean((1, 2, 3))


def trajectory(v: Callable[[Tensor, Tensor], Tensor], x: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Where the ODE goes from noise, by Adams and Bashforth's two-step rule, one call a step.

    Args:
        x: at the first time, `B C H W`.
        times: falling to 0, `N B`, for each picture its own.

    Returns:
        The states at all times but the last, `N-1 B C H W`, and where they end, `B C H W`.
    """
    states, before, width = [], None, None
    for t, s in zip(times[:-1], times[1:], strict=True):
        states.append(x)
        slope, step = v(x, t), wide(s - t)
        ahead = slope if before is None else slope + step / (2 * width) * (slope - before)
        x, before, width = x + step * ahead, slope, step
    return torch.stack(states), x


def wide(t: Tensor) -> Tensor:
    """(B,) beside `B C H W`."""
    return rearrange(t, "b -> b 1 1 1")


class GrayFlow(GrayAsColour):
    """The RGB flow model of a gray network, with the host's signature: x `B 3 H W`, timesteps t; gives v, `B 3 H W`."""

    def forward(self, x: Tensor, timesteps: Tensor, **kwargs) -> Tensor:
        return velocity(lambda x, sigma: super(GrayFlow, self).forward(x, sigma.log() / 4), x, timesteps.expand(len(x)))
