"""Memory for the backward pass, which the host's own estimate leaves out."""

from __future__ import annotations

import math

import comfy.model_management as management
import torch

from .differentiable import Economy

#: bytes of saved activations per latent pixel, byte of the dtype and unit of the model's `memory_usage_factor`;
#: counted in half precision: SD1.5 0.25, SDXL 0.39, SD3 medium 0.57 MiB
_GRAPH = 0.5 * 2**20
#: what is left of it with checkpointed blocks
_CHECKPOINTED = 0.35


def graph_memory(model, shape: tuple[int, ...], kinds: int) -> float:
    """Estimated bytes that one pass of a host's `BaseModel` saves for its backward pass.

    Args:
        shape: of the state, `B C H W`.
        kinds: conditionings that run at each step (2 with classifier-free guidance).
    """
    dtype = model.manual_cast_dtype or model.get_dtype()
    area = shape[0] * math.prod(shape[2:])
    return kinds * area * management.dtype_size(dtype) * model.memory_usage_factor * _GRAPH


def reserve(guider, shape: tuple[int, ...]) -> Economy:
    """Asks the host for the memory of a gradient pass, and says how sparing the pass has to be.

    Weights that the host moves in for each call would be kept by the graph: those models run checkpointed as well.
    """
    patcher, device = guider.model_patcher, guider.model_patcher.load_device
    need = graph_memory(guider.inner_model, shape, len(guider.conds))
    if management.is_device_cpu(device):
        available = management.get_free_memory(device)
    else:
        available = management.get_total_memory(device) - patcher.model_size() - management.extra_reserved_memory()
    tight = need > available
    need *= _CHECKPOINTED if tight else 1.0
    management.load_models_gpu([patcher, *guider.loaded_models], memory_required=need)
    return sparing() if tight or getattr(guider.inner_model, "model_lowvram", False) else Economy()


def sparing() -> Economy:
    return Economy(out_of_place=True, checkpoint=True)


def out_of_memory() -> RuntimeError:
    """The host's own kind of error, after which it unloads its models."""
    return torch.cuda.OutOfMemoryError(
        "There is not enough memory for the gradient of this guidance, even for one picture at a time; lower the size "
        "of the picture, or choose DDNM or DiffPIR, which need no gradient."
    )
