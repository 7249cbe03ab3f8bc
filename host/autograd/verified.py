"""Whether a gradient is that of the whole network.

Where only the host's own layers run it is. Other code (a compiled engine, a kernel without a backward pass, a cache of
earlier steps, a patch that detaches) may leave parts of the network out, and nothing would tell: x0 = x - sigma f(x)
has a gradient even where f has none. So before the first guided step of such a model one directional derivative is
compared with a central difference, D_h = (x0(x + h d) - x0(x - h d)) / 2h:

    <J^T v, d> = <v, D_h>        v along the part of D_h that is orthogonal to d

What x0 takes over from x itself has no share in that, and what a cut leaves out of J d is left out of the left side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from torch import Tensor, nn

from ...algebra.autograd import pulled_back, traced
from ...algebra.refusal import Refusal

NO_GRADIENT = "This model has no gradient; choose DDNM or DiffPIR, which need none."
PARTIAL = (
    "The gradient of this model leaves a part of the network out, which runs in code that gradients cannot follow (a "
    "patch, a cache, another engine or kernel); take that off the MODEL, or choose DDNM or DiffPIR, which need no "
    "gradient."
)
#: layers of the host that multiply as torch does
_PLAIN_LAYERS = ("disable_weight_init.", "manual_cast.")
_TRUSTED = ("torch", "comfy", "comfy_api", "builtins", "functools")
_OWN = __name__.removesuffix(".host.autograd.verified")


def verify(denoiser: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype) -> None:
    """Refuses a denoiser whose gradient is not its derivative at x, `B C H W`. Costs 5 model calls, one with gradient.

    d is half the prediction, of which a denoiser keeps much, and half noise. The step balances both errors of a central
    difference, h^2 of its order and u / h of rounding: with h in units of norm(x), h^3 = u / sqrt(N) for the unit u of
    `dtype`, in which the network computes, since the errors of N numbers are independent along v. v is taken at another
    step than D, so that rounding is no part of both. With the networks of SD1.5 and of the photo prior what is left is
    a tenth of the bound below in float32, three quarters of it in bfloat16.

    Raises:
        Refusal: when they differ for this step, and for smaller ones too.
    """
    leaf, value = traced(denoiser, x)
    if not value.requires_grad:
        raise Refusal(NO_GRADIENT)
    x0 = value.detach()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    d = _unit(_unit(x0) + _unit(noise))
    # weights of 8 bits are no limit, and what the host gives back has 32
    unit = torch.finfo(torch.bfloat16 if dtype.itemsize == 1 else dtype).eps
    h = (max(unit, 1e-7) / x.numel() ** 0.5) ** (1 / 3)

    def difference(step: float) -> Tensor:
        by = step * x.norm() * d
        with torch.no_grad():
            return (denoiser(x + by) - denoiser(x - by)).double() / (2 * step * x.norm().double())

    v = difference(1.4 * h)
    v = _unit(v - (v * d).sum() * d).to(x)
    slope = (pulled_back(value, leaf, v).double() * d).sum()
    for step in (h, h / 3, h / 9):
        expected = (difference(step) * v).sum()
        if (expected - slope).abs() <= (0.01 + h / 2) * expected.abs() + 0.1 * h**3 / step:
            return
    raise Refusal(PARTIAL)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm().clamp_min(1e-30)


def doubtful(modules: Iterable[nn.Module], model_options: dict, conds: dict[str, list[dict]]) -> bool:
    """Whether anything runs that is not the host's, or the host's by a kernel whose gradient is not certain.

    Args:
        modules: all networks that run.
        model_options, conds: the guider's, with patches, wrappers and ControlNets.
    """
    management = comfy.model_management
    kernels = ("sage_attention_enabled", "flash_attention_enabled")
    if any(getattr(management, kernel, bool)() for kernel in kernels):
        return True
    controls = [type(cond["control"]) for kind in conds.values() for cond in kind if cond.get("control") is not None]
    return not _trusted([model_options, controls]) or not all(map(_is_plain, modules))


def _is_plain(module: Any) -> bool:
    """Whether a module is made of the host's own layers, with weights that are plain numbers."""
    return isinstance(module, nn.Module) and all(map(_is_plain_layer, module.modules()))


def _is_plain_layer(layer: nn.Module) -> bool:
    kind = type(layer)
    if not _is_own(kind) or (kind.__module__ == "comfy.ops" and not kind.__qualname__.startswith(_PLAIN_LAYERS)):
        return False
    if not all(type(weight) in (Tensor, nn.Parameter, type(None)) for weight in layer._parameters.values()):
        return False
    own = [value for value in vars(layer).values() if callable(value) or type(value) is list]  # instead of a method
    return _trusted([own, layer._forward_hooks, layer._forward_pre_hooks])


def _trusted(value: Any) -> bool:
    """Whether all functions in nested options are the host's or ours."""
    if isinstance(value, dict):
        return all(map(_trusted, value.values()))
    if isinstance(value, (list, tuple, set)):
        return all(map(_trusted, value))
    return not callable(value) or isinstance(value, Tensor) or _is_own(value)


def _is_own(value: Any) -> bool:
    """Whether a class, a function or an object with a call comes from torch, the host or this pack."""
    value = getattr(value, "func", value)  # of a partial
    name = getattr(value, "__module__", None) or type(value).__module__
    parts = re.split(r"[./\\]", name)
    if "custom_nodes" in parts and not name.startswith(_OWN):
        return False
    return (
        name.startswith(_OWN)
        or parts[0] in ("torch", "comfy", "comfy_api", "builtins", "functools")
        or "comfy_extras" in parts
    )
