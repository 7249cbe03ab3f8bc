"""Weights out of files that nobody vouches for: nothing in them runs, and they take no more memory than they hold."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import comfy.utils
import folder_paths
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ...algebra.refusal import Refusal

#: bytes of weights for each byte of a file: 1, or more where names share their weights
SHARED = 2
#: characters of a file's name that a sentence holds
_NAME = 60


def weight_file(folder: str, name: str) -> Path:
    """Where a file of one of the host's folders lies.

    Raises:
        Refusal: where there is none, or only outside the folder.
    """
    path = folder_paths.get_full_path(folder, name) if ".." not in Path(name).parts else None
    if path is None:
        raise Refusal(f"There is no such file in the folder models/{folder}; put one there, or choose one of the list.")
    return Path(path)


def read_weights(folder: str, name: str) -> dict[str, Tensor]:
    """The weights in a file of one of the host's folders.

    Raises:
        Refusal: when it holds anything but weights, or claims more of them than it is long.
    """
    path = weight_file(folder, name)
    size, short = path.stat().st_size, name[-_NAME:]
    claims = Refusal(f"{short} claims to hold more than its {size} bytes; do not use it, and take another file.")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch packs without compressing
                if sum(part.file_size for part in archive.infolist()) > size:
                    raise claims
        weights = comfy.utils.load_torch_file(str(path), safe_load=True)
    except Refusal:
        raise
    except Exception as error:  # whatever a broken or hostile file may cause
        raise Refusal(
            f"{short} cannot be read as weights: it is damaged, or carries code; take it from its author again, "
            "as safetensors if there is the choice."
        ) from error
    if not isinstance(weights, dict) or not all(_is_weight(key, value) for key, value in weights.items()):
        raise Refusal(f"{short} holds something other than weights; choose a file with a plain state dict.")
    if sum(value.numel() * value.element_size() for value in weights.values()) > SHARED * size:
        raise claims
    return weights


def _is_weight(key: object, value: object) -> bool:
    plain = isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided
    return plain and value.device.type == "cpu" and not (value.is_quantized or value.is_complex())


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself; nothing for other files."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def require_fit(network: Callable[..., nn.Module], config: dict, weights: dict[str, Tensor]) -> None:
    """Lays the weights into a network without memory: a few of them may describe layers that no machine could hold.

    Raises:
        RuntimeError: where they are not the network's.
    """
    network(**config, device="meta").load_state_dict(weights, assign=True)
