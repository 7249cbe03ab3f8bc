"""FFDNet (Zhang, Zuo and Zhang 2018), https://arxiv.org/abs/1710.04026.

A plain stack of 3 x 3 convolutions on the pixel-unshuffled picture with the noise level as one more channel. Published
for colour (12 layers of 96) and gray (15 layers of 64), sigma up to 75/255.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .denoiser import Denoiser


class FFDNet(Denoiser):
    """The network with the layers' names of its authors' later PyTorch release.

    Args:
        channels: colour channels of the picture, 3 or 1.
        width: feature channels.
        depth: number of convolutions.
        dtype, device, operations: how layers are made, as the host does it.
    """

    stride = 2
    sigma_max = 75 / 255

    def __init__(self, channels: int = 3, width: int = 96, depth: int = 12, dtype=None, device=None, operations=nn):
        super().__init__(channels, dtype)
        sizes = [4 * channels + 1, *[width] * (depth - 1), 4 * channels]
        layers: list[nn.Module] = []
        for size_in, size_out in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [operations.Conv2d(size_in, size_out, 3, padding=1, dtype=dtype, device=device), nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])

    @staticmethod
    def config_from_state_dict(state_dict: dict[str, Tensor]) -> dict[str, int]:
        weights = [value for key, value in state_dict.items() if key.endswith("weight")]
        channels, rest = divmod(weights[-1].shape[0], 4)
        if rest or weights[0].shape[1] != 4 * channels + 1 or "model.0.weight" not in state_dict:
            raise ValueError("not FFDNet")
        return {"channels": channels, "width": weights[0].shape[0], "depth": len(weights)}

    def network(self, u: Tensor, sigma: Tensor) -> Tensor:
        features = F.pixel_unshuffle(u, 2)
        level = sigma.expand(-1, 1, *features.shape[-2:])
        return F.pixel_shuffle(self.model(torch.cat([features, level], 1)), 2)
