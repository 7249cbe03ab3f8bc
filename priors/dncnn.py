"""DnCNN (Zhang et al. 2017), https://arxiv.org/abs/1608.03981: x0_hat = u - N(u), the network finds the noise.

Published without batch normalisation (it is merged into the convolutions) as 20 layers of 64, blind for sigma up to
55/255, gray and colour; and as 17 layers for one noise level each. It is not told the noise level.
"""

from __future__ import annotations

from torch import Tensor, nn

from .denoiser import Denoiser


class DnCNN(Denoiser):
    """The network with the layers' names of its authors' later PyTorch release.

    Args:
        channels: colour channels of the picture, 3 or 1.
        width: feature channels.
        depth: number of convolutions.
        dtype, device, operations: how layers are made, as the host does it.
    """

    sigma_max = 55 / 255

    def __init__(self, channels: int = 3, width: int = 64, depth: int = 20, dtype=None, device=None, operations=nn):
        super().__init__(channels, dtype)
        sizes = [channels, *[width] * (depth - 1), channels]
        layers: list[nn.Module] = []
        for size_in, size_out in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [operations.Conv2d(size_in, size_out, 3, padding=1, dtype=dtype, device=device), nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])

    @staticmethod
    def config_from_state_dict(state_dict: dict[str, Tensor]) -> dict[str, int]:
        weights = [value for key, value in state_dict.items() if key.endswith("weight")]
        channels = weights[-1].shape[0]
        if channels not in (1, 3) or weights[0].shape[1] != channels or "model.0.weight" not in state_dict:
            raise ValueError("not DnCNN")
        return {"channels": channels, "width": weights[0].shape[0], "depth": len(weights)}

    def network(self, u: Tensor, sigma: Tensor) -> Tensor:
        return u - self.model(u)
