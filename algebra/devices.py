"""What devices cannot do, in one place, and how tensors reach them without a wait."""

from __future__ import annotations

import torch
from torch import Tensor

from .refusal import Refusal


def widest_float(device: torch.device) -> torch.dtype:
    """The most precise floats of a device: float64 on processors and CUDA (ROCm), not on Apple's and most others."""
    device = torch.device(device)
    if device.type == "xpu":
        return torch.float64 if torch.xpu.get_device_properties(device).has_fp64 else torch.float32
    return torch.float64 if device.type in ("cpu", "cuda", "meta") else torch.float32


def precise(x: Tensor) -> Tensor:
    """x in the most precise floats of its device."""
    return x.to(widest_float(x.device))


def has_complex(device: torch.device) -> bool:
    """Whether a device knows complex numbers; DirectML does not."""
    return device.type != "privateuseone"


def require_complex(device: torch.device, label: str, remedy: str = "") -> None:
    """Refuses what needs complex numbers where there are none. remedy: what else could be chosen, ", or ..."."""
    if not has_complex(device):
        raise Refusal(
            f"{label} needs complex numbers, which this device (DirectML) does not know; start ComfyUI with --cpu"
            f"{remedy}."
        )


def sent(x: Tensor, like: Tensor) -> Tensor:
    """x on the device and in the dtype of `like`. A CUDA device is not waited for: the driver keeps a copy of what it
    has yet to fetch."""
    return x.to(like.device, like.dtype, non_blocking=like.device.type == "cuda" and x.device.type == "cpu")
