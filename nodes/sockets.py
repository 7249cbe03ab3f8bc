"""The sockets of the pack, and what the nodes share: images, devices, words."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..algebra.refusal import Refusal
from ..host.autograd.gradients import normal

Operator = io.Custom("MEASUREMENT_OPERATOR")
Measurement = io.Custom("MEASUREMENT")
Guidance = io.Custom("LIKELIHOOD_GUIDANCE")


def planes(image: Tensor) -> Tensor:
    """An IMAGE as the mathematics sees it: BHWC to BCHW, a copy outside inference mode.

    Raises:
        Refusal: for pictures that do not have three colours.
    """
    if image.shape[-1] != 3:
        raise Refusal(
            f"The picture has {image.shape[-1]} channels; give red, green and blue only "
            "(Split Image with Alpha takes an alpha channel off)."
        )
    with torch.inference_mode(False):
        return normal(image).movedim(-1, 1).float().clone()


def picture(x: Tensor) -> Tensor:
    """BCHW to an IMAGE: BHWC, cut to [0, 1]."""
    return x.movedim(1, -1).clamp(0, 1).float().cpu()


def hole(mask: Tensor) -> Tensor:
    """A MASK (B H W) as B 1 H W, a copy outside inference mode."""
    with torch.inference_mode(False):
        return normal(mask).reshape(-1, 1, *mask.shape[-2:]).float().clone()
