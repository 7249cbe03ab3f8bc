"""Memory for the backward pass, which the host's own estimate leaves out."""

from __future__ import annotations

import math
from dataclasses import replace

import comfy.model_management as management
import torch

from ..spaces.space import ModelSpace
from ..spaces.windows import at_once
from .memory_plan import TILE, MemoryPlan

#: bytes of saved activations per latent pixel, byte of the dtype and unit of the model's `memory_usage_factor`;
#: counted in half precision: SD1.5 0.14, SDXL 0.28, SD3 medium 0.57 MiB
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


def reserve(guider, shape: tuple[int, ...], space: ModelSpace, jacobian: bool = True) -> MemoryPlan:
    """Asks the host for the memory of a gradient pass, and says how sparing the pass has to be.

    Weights that the host moves in for each call would be kept by the graph, and overwritten where they come through one
    buffer: those models run checkpointed as well, and a block's second run keeps copies of its own weights.

    Args:
        shape: of the state, `B C H W`.
        space: the way from there to pictures, which is loaded as well.
        jacobian: whether the gradient passes through the model, or through that way only.
    """
    patcher, device = guider.model_patcher, guider.model_patcher.load_device
    own = graph_memory(guider.inner_model, at_once(patcher, shape), len(guider.conds)) if jacobian else 0.0
    patchers = [patcher, *guider.loaded_models, *space.patchers()]
    if management.is_device_cpu(device):
        available = management.get_free_memory(device)
    else:
        weights = sum(each.model_size() for each in {patcher, *space.patchers()})
        available = management.get_total_memory(device) - weights - management.extra_reserved_memory()

    def need(plan: MemoryPlan) -> float:
        return own * (_CHECKPOINTED if plan.checkpoint else 1.0) + space.graph_memory(shape, plan)

    ways = [MemoryPlan(), sparing()]
    if space.patchers():
        both = replace(sparing(), decoder=True)
        ways += [both, replace(both, tile=TILE)]
    plan = next((way for way in ways if need(way) <= available), ways[-1])
    management.load_models_gpu(patchers, memory_required=need(plan))
    if getattr(guider.inner_model, "model_lowvram", False):
        plan = replace(plan, out_of_place=True, checkpoint=True, copies=True)
    return plan


def gradient_fits(patcher, shape: tuple[int, ...], kinds: int) -> bool:
    """Whether a pass through a MODEL with its gradient fits the memory, made as sparingly as for one picture at a time.

    Args:
        shape, kinds: as in `graph_memory`.
    """
    device = patcher.load_device
    if management.is_device_cpu(device):
        available = management.get_free_memory(device)
    else:
        available = management.get_total_memory(device) - patcher.model_size() - management.extra_reserved_memory()
    return _CHECKPOINTED * graph_memory(patcher.model, (1, *shape[1:]), kinds) <= available


def sparing() -> MemoryPlan:
    return MemoryPlan(out_of_place=True, checkpoint=True)


def out_of_memory() -> RuntimeError:
    """The host's own kind of error, after which it unloads its models."""
    return torch.cuda.OutOfMemoryError(
        "There is not enough memory for the gradient of this guidance, even for one picture at a time; lower the size "
        "of the picture, or choose DDNM or DiffPIR, which need no gradient."
    )
