"""A gray prior as a prior of RGB pictures, so that it meets the host's models and the operators as any other.

A gray picture g lies on the line x = (g, g, g). Three channels of independent noise are then one measurement of g:
their mean is sufficient, with the noise sigma / sqrt(3). With the gray denoiser D this gives exactly

    E[x_0 | x_t; sigma] = (D(m), D(m), D(m)),    D(m) = D(mean of the channels of x_t; sigma / sqrt(3)).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..algebra.refusal import Refusal
from .unet import PhotoUNet, denoise


class GrayAsColour(nn.Module):
    """The RGB denoiser of a gray `PhotoUNet`, x_t in [-1, 1] plus noise.

    Args:
        architecture: the constructor's arguments of the network; `given` counts gray channels of a measurement.
        dtype, device, operations: how layers are made, as the host does it.
    """

    def __init__(self, dtype=None, device=None, operations=nn, **architecture):
        super().__init__()
        self.dtype = dtype  # the host asks its networks for it
        self.gray = PhotoUNet(dtype=dtype, device=device, operations=operations, **architecture)

    @staticmethod
    def config_from_state_dict(state_dict: dict[str, Tensor]) -> dict:
        """The constructor's arguments, from keys that begin with `gray.`."""
        return PhotoUNet.config_from_state_dict({key.removeprefix("gray."): value for key, value in state_dict.items()})

    def forward(self, x: Tensor, timesteps: Tensor, **kwargs) -> Tensor:
        """The host's signature: x `B 3 H W`, behind it an RGB measurement where the network was trained with one;
        timesteps = log(sigma) / 4; gives x0_hat, `B 3 H W`."""
        g, *given = (part.mean(1, keepdim=True) for part in x.split(3, 1))
        sigma = (4 * timesteps).exp().expand(len(x)) / 3**0.5
        return denoise(self.gray, g, sigma, torch.cat(given, 1) if given else None).expand(-1, 3, -1, -1)


class Told(nn.Module):
    """A conditional network that has been told its measurement: h(x_t, t, y) with y kept.

    Args:
        network: takes the channels of y behind those of x_t.
        given: y as the network was trained to see it, `1 C H W` or one for each sample, [-1, 1] unit.
    """

    def __init__(self, network: nn.Module, given: Tensor):
        super().__init__()
        self.dtype = network.dtype
        self.network = network
        self.given = nn.Parameter(given, requires_grad=False)

    def forward(self, x: Tensor, timesteps: Tensor, **kwargs) -> Tensor:
        if x.shape[-2:] != self.given.shape[-2:]:
            height, width = self.given.shape[-2:]
            raise Refusal(
                f"This model has been told a picture for {width} x {height} and the latent is "
                f"{x.shape[-1]} x {x.shape[-2]}; make the latent {width} x {height}."
            )
        return self.network(torch.cat([x, self.given.expand(len(x), -1, -1, -1)], 1), timesteps, **kwargs)
