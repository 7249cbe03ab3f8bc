"""What published Gaussian denoisers share: pictures in [0, 1], any size, and the host's signature.

A network that was trained to undo white noise is E[u | u + sigma z] at the noise levels of its training, and there it
serves as a diffusion prior. A gray network is applied to each colour on its own.
"""

from __future__ import annotations

from abc import abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn


class Denoiser(nn.Module):
    """A denoiser of pictures with `channels` colours whose sides it takes as multiples of `stride`."""

    stride = 1
    #: the largest noise level of its published training, in image units
    sigma_max: float

    def __init__(self, channels: int, dtype):
        super().__init__()
        self.channels = channels
        self.dtype = dtype  # the host asks its networks for it

    @staticmethod
    @abstractmethod
    def config_from_state_dict(state_dict: dict[str, Tensor]) -> dict[str, int]:
        """The constructor's arguments; KeyError, IndexError or ValueError when these are not its weights."""

    @abstractmethod
    def network(self, u: Tensor, sigma: Tensor) -> Tensor:
        """The network itself. u: `B channels H W` of suitable size; sigma: `B 1 1 1`."""

    def denoise(self, u: Tensor, sigma: Tensor) -> Tensor:
        """u: `B C H W` in [0, 1] plus noise, C = channels, or any C for a gray network; sigma: `B`, the same unit."""
        b, c, height, width = u.shape
        groups = c // self.channels
        padding = (0, -width % self.stride, 0, -height % self.stride)
        padded = F.pad(u, padding, mode="replicate").reshape(b * groups, self.channels, height + padding[3], -1)
        level = sigma.to(u.dtype).expand(b).repeat_interleave(groups).reshape(-1, 1, 1, 1)
        return self.network(padded, level)[..., :height, :width].reshape(u.shape)

    def forward(self, x: Tensor, timesteps: Tensor, **kwargs) -> Tensor:
        """The host's signature: x in [-1, 1] plus noise, timesteps = log(sigma) / 4 in that unit; gives x0_hat."""
        return 2 * self.denoise((x + 1) / 2, (4 * timesteps).exp() / 2) - 1
