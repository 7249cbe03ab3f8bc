"""FFDNet (Zhang, Zuo and Zhang 2018), https://arxiv.org/abs/1710.04026: a published Gaussian denoiser.

A plain stack of 3 x 3 convolutions on the pixel-unshuffled picture with the noise level as one more channel:
E[u | u + sigma z] for pictures u in [0, 1] and sigma up to 75/255. It serves as a prior at low noise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: the largest noise level it was trained for, in image units
SIGMA_MAX = 75 / 255


class FFDNet(nn.Module):
    """Layers and widths are the constructor's, and can be read from a state dict (`config_from_state_dict`).

    Args:
        channels: colour channels of the picture, 3 or 1.
        width: feature channels.
        depth: number of convolutions.
    """

    def __init__(self, channels: int = 3, width: int = 96, depth: int = 12, dtype=None, device=None, operations=nn):
        super().__init__()
        self.dtype = dtype  # the host asks its networks for it
        sizes = [4 * channels + 1, *[width] * (depth - 1), 4 * channels]
        layers: list[nn.Module] = []
        for size_in, size_out in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [operations.Conv2d(size_in, size_out, 3, padding=1, dtype=dtype, device=device), nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])

    @staticmethod
    def config_from_state_dict(state_dict: dict[str, Tensor]) -> dict[str, int]:
        """The constructor's arguments; KeyError or ValueError when these are not FFDNet's weights."""
        weights = [value for key, value in state_dict.items() if key.endswith("weight")]
        channels, rest = divmod(weights[-1].shape[0], 4)
        if rest or weights[0].shape[1] != 4 * channels + 1 or "model.0.weight" not in state_dict:
            raise ValueError("not FFDNet")
        return {"channels": channels, "width": weights[0].shape[0], "depth": len(weights)}

    def denoise(self, u: Tensor, sigma: Tensor) -> Tensor:
        """u: `B C H W` in [0, 1] plus noise; sigma: `B` in the same unit."""
        height, width = u.shape[-2:]
        padded = F.pad(u, (0, width % 2, 0, height % 2), mode="replicate")
        features = F.pixel_unshuffle(padded, 2)
        level = sigma.to(u.dtype).reshape(-1, 1, 1, 1).expand(u.shape[0], 1, *features.shape[-2:])
        return F.pixel_shuffle(self.model(torch.cat([features, level], 1)), 2)[..., :height, :width]

    def forward(self, x: Tensor, timesteps: Tensor, **kwargs) -> Tensor:
        """The host's signature: x in [-1, 1] plus noise, timesteps = log(sigma) / 4 in that unit; gives x0_hat."""
        sigma = (4 * timesteps).exp() / 2
        return 2 * self.denoise((x + 1) / 2, sigma) - 1
