"""DRUNet (Zhang et al. 2021, DPIR), https://arxiv.org/abs/2008.13751: a residual U-Net without biases.

Four scales, each with residual blocks conv - relu - conv, joined by sums; the noise level is one more input channel.
Published for colour and gray with widths 64, 128, 256, 512 and four blocks a scale, sigma up to 50/255.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .denoiser import Denoiser


class Residual(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, width: int, operations, **factory):
        super().__init__()
        conv = {"kernel_size": 3, "padding": 1, "bias": False, **factory}
        self.res = nn.Sequential(
            operations.Conv2d(width, width, **conv), nn.ReLU(), operations.Conv2d(width, width, **conv)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res(x)


class DRUNet(Denoiser):
    """The network with its authors' names of layers.

    Args:
        channels: colour channels of the picture, 3 or 1.
        widths: feature channels of the four scales.
        blocks: residual blocks of each scale.
        dtype, device, operations: how layers are made, as the host does it.
    """

    stride = 8
    sigma_max = 50 / 255

    def __init__(
        self, channels: int = 3, widths=(64, 128, 256, 512), blocks: int = 4, dtype=None, device=None, operations=nn
    ):
        super().__init__(channels, dtype)
        factory = {"dtype": dtype, "device": device}
        conv = {"kernel_size": 3, "padding": 1, "bias": False, **factory}
        half = {"kernel_size": 2, "stride": 2, "bias": False, **factory}

        def scale(width: int) -> list[nn.Module]:
            return [Residual(width, operations, **factory) for _ in range(blocks)]

        def down(i: int) -> nn.Sequential:
            return nn.Sequential(*scale(widths[i]), operations.Conv2d(widths[i], widths[i + 1], **half))

        def up(i: int) -> nn.Sequential:
            return nn.Sequential(operations.ConvTranspose2d(widths[i + 1], widths[i], **half), *scale(widths[i]))

        self.m_head = operations.Conv2d(channels + 1, widths[0], **conv)
        self.m_down1, self.m_down2, self.m_down3 = down(0), down(1), down(2)
        self.m_body = nn.Sequential(*scale(widths[3]))
        self.m_up3, self.m_up2, self.m_up1 = up(2), up(1), up(0)
        self.m_tail = operations.Conv2d(widths[0], channels, **conv)

    @staticmethod
    def config_from_state_dict(state_dict: dict[str, Tensor]) -> dict:
        blocks = sum(key.startswith("m_body.") for key in state_dict) // 2
        widths = [state_dict[f"m_down{i}.0.res.0.weight"].shape[0] for i in (1, 2, 3)]
        widths.append(state_dict["m_body.0.res.0.weight"].shape[0])
        return {"channels": state_dict["m_tail.weight"].shape[0], "widths": tuple(widths), "blocks": blocks}

    def network(self, u: Tensor, sigma: Tensor) -> Tensor:
        x1 = self.m_head(torch.cat([u, sigma.expand(-1, 1, *u.shape[-2:])], 1))
        x2 = self.m_down1(x1)
        x3 = self.m_down2(x2)
        x4 = self.m_down3(x3)
        x = self.m_up3(self.m_body(x4) + x4)
        x = self.m_up2(x + x3)
        x = self.m_up1(x + x2)
        return self.m_tail(x + x1)
