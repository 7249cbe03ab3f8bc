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
Convergence = io.Custom("CONVERGENCE")
JPEGFile = io.Custom("JPEG_FILE")
#: more than this share of values may not lie further outside [0, 1] than this
SHARE, MARGIN = 0.01, 0.1


def planes(image: Tensor, bounded: bool = True) -> Tensor:
    """An IMAGE as the mathematics sees it: BHWC to BCHW, a float32 copy on the CPU, outside inference mode.

    Args:
        bounded: whether its values are brightness, black 0 and white 1.

    Grey pictures get three equal colours.

    Raises:
        Refusal: for pictures that do not have three colours or one, are not finite, or have another range.
    """
    if image.ndim not in (3, 4) or 0 in image.shape:
        raise Refusal(f"This is no picture but numbers of shape {_sizes(image)}; connect an IMAGE.")
    if image.shape[-1] not in (1, 3):
        raise Refusal(
            f"The picture has {image.shape[-1]} channels; give red, green and blue only "
            "(Split Image with Alpha takes an alpha channel off)."
        )
    with torch.inference_mode(False):
        x = normal(image).reshape(-1, *image.shape[-3:]).movedim(-1, 1).to("cpu", torch.float32, copy=True)
        _require_values(x, "picture", bounded)
        return x.expand(-1, 3, -1, -1)


def picture(x: Tensor) -> Tensor:
    """BCHW to an IMAGE: BHWC, cut to [0, 1]."""
    return x.movedim(1, -1).clamp(0, 1).float().cpu()


def hole(mask: Tensor, what: str = "mask") -> Tensor:
    """A MASK (B H W) as B 1 H W, a float32 copy on the CPU, outside inference mode.

    Args:
        what: it is, in a message.

    Raises:
        Refusal: for what is no mask, is not finite, or has another range.
    """
    channels = mask.shape[1] if mask.ndim == 4 else 1
    if not 2 <= mask.ndim <= 4 or channels != 1 or 0 in mask.shape:
        raise Refusal(f"This is no {what} but numbers of shape {_sizes(mask)}; connect a MASK.")
    with torch.inference_mode(False):
        m = normal(mask).reshape(-1, 1, *mask.shape[-2:]).to("cpu", torch.float32, copy=True)
        _require_values(m, what)
        return m


def _require_values(x: Tensor, what: str, bounded: bool = True) -> None:
    if not torch.isfinite(x).all():
        raise Refusal(f"The {what} contains NaN or infinite values; check the node that makes it.")
    outside = (x < -MARGIN) | (x > 1 + MARGIN)
    if bounded and outside.double().mean() > SHARE:
        low, high = x.min().item(), x.max().item()
        remedy = "divide it by 255" if 8 < high <= 255 and low >= -MARGIN else "bring it to that range first"
        raise Refusal(
            f"The values of the {what} go from {low:.3g} to {high:.3g}, where black is 0 and white is 1; {remedy}."
        )


def _sizes(x: Tensor) -> str:
    return " x ".join(map(str, x.shape))
