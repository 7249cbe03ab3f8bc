"""Gradients through the host's models.

Every prompt runs under `torch.inference_mode()`, so the weights are inference tensors, which autograd refuses to save.
While a run needs gradients each of them is replaced by a normal tensor on the same storage (no copy, no change to
what other runs see), and the very objects that were there are put back afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ...algebra.refusal import Refusal
from .full_precision import full_precision_products

#: calls of torch as if its classes had no heirs
_Plainly = getattr(torch._C, "DisableTorchFunctionSubclass", None) or torch._C.DisableTorchFunction


def normal(tensor: Tensor) -> Tensor:
    """A tensor outside inference mode on the same storage; normal tensors come back as they are.

    It is of the same class and carries the same attributes: checkpoints of packed numbers (GGUF) note there how they
    are to be read.
    """
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False), torch.no_grad():
        if is_traceable_wrapper_subclass(tensor):  # quantised weights: a wrapper around plain tensors
            names, context = tensor.__tensor_flatten__()
            inner = {name: normal(getattr(tensor, name)) for name in names}
            alias = type(tensor).__tensor_unflatten__(inner, context, tensor.size(), tensor.stride())
            return nn.Parameter(alias, requires_grad=False) if isinstance(tensor, nn.Parameter) else alias
        with _Plainly():  # a subclass may report other sizes than it holds, and copy where it should not
            alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            alias.set_(tensor.untyped_storage(), tensor.storage_offset(), Tensor.size(tensor), Tensor.stride(tensor))
            if type(tensor) is not Tensor:
                alias = alias.as_subclass(type(tensor))
        vars(alias).update(vars(tensor))
        return alias


def normal_tree(value: Any) -> Any:
    """`normal` for all tensors in nested dicts, lists, tuples and the host's conditioning objects."""
    if isinstance(value, Tensor):
        return normal(value)
    if isinstance(value, dict):
        return {key: normal_tree(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(normal_tree(item) for item in value)
    if type(value).__module__ == "comfy.conds":
        return value._copy_with(normal_tree(value.cond))
    return value


class GradientScope:
    """Keeps the weights of some modules differentiable-through; a context manager.

    `refresh` is called before each pass, since the host may have put new weights in place meanwhile (hooks, LoRA
    schedules, weights moved between devices). Weights get no gradient of their own, which would cost memory.
    """

    def __init__(self, modules: Iterable[nn.Module]):
        self.modules = list(modules)
        self._replaced: list[tuple[dict, str, Any, Any]] = []
        self._stack = ExitStack()

    def refresh(self) -> None:
        for root in self.modules:
            for module in root.modules():
                for table in (module._parameters, module._buffers):
                    for name, tensor in table.items():
                        if tensor is not None and (tensor.is_inference() or tensor.requires_grad):
                            self._replace(table, name, tensor)

    def _replace(self, table: dict, name: str, tensor: Tensor) -> None:
        alias = normal(tensor)
        if alias is tensor:  # it would take a gradient of its own
            with torch.inference_mode(False):
                alias = nn.Parameter(tensor.detach(), requires_grad=False)
        table[name] = alias
        self._replaced.append((table, name, tensor, alias))

    def __enter__(self) -> GradientScope:
        with ExitStack() as entering:
            entering.push(self.__exit__)
            self._stack.enter_context(training_mode_of_host())
            self._stack.enter_context(full_precision_products(self.modules))
            self.refresh()
            for root in self.modules:  # tensors that a module keeps as plain attributes, such as position tables
                for module in root.modules():
                    for name, value in vars(module).items():
                        if isinstance(value, Tensor) and value.is_inference():
                            self._replace(vars(module), name, value)
            entering.pop_all()
        return self

    def __exit__(self, *exc_info) -> None:
        for table, name, original, alias in reversed(self._replaced):
            if table.get(name) is alias:  # the host may have replaced ours, then its word stands
                table[name] = original
        self._replaced.clear()
        self._stack.close()


@contextmanager
def training_mode_of_host() -> Iterator[None]:
    """Newer hosts leave out operations in place and fused kernels while `in_training` is set."""
    management = comfy.model_management
    before = getattr(management, "in_training", None)
    if before is not None:
        management.in_training = True
    try:
        yield
    finally:
        if before is not None:
            management.in_training = before


def is_dynamic(patcher) -> bool:
    """Whether a newer host keeps the weights of this MODEL in shared buffers, which are overwritten before a backward
    pass has used them."""
    return bool(getattr(patcher, "is_dynamic", bool)())


def static_clone(patcher):
    """A clone whose weights stay where they are while a gradient is computed.

    Raises:
        Refusal: when the host cannot load the MODEL that way.
    """
    if not is_dynamic(patcher):
        return patcher.clone()
    try:
        if hasattr(patcher, "get_non_dynamic_delegate"):  # kept by the host, where the other is read from the disk anew
            return patcher.get_non_dynamic_delegate()
        return patcher.clone(disable_dynamic=True)
    except Exception as error:
        raise Refusal(
            "This model's weights move while it runs, so it has no gradient; start ComfyUI with "
            "--disable-dynamic-vram, or choose DDNM or DiffPIR, which need none."
        ) from error


@contextmanager
def static_weights(guider) -> Iterator[None]:
    """Lets a guider that is sampling use a static clone of a dynamic MODEL for a while.

    Raises:
        Refusal: when something else on the way is dynamic, ControlNets above all.
    """
    if any(map(is_dynamic, guider.loaded_models)):
        raise Refusal(
            "The weights of a ControlNet or of another model beside the MODEL move while it runs, so there is no "
            "gradient through it; start ComfyUI with --disable-dynamic-vram, or choose DDNM or DiffPIR, which need "
            "none."
        )
    if not is_dynamic(guider.model_patcher):
        yield
        return
    before = guider.model_patcher, guider.inner_model
    clone = static_clone(guider.model_patcher)
    comfy.model_management.load_models_gpu([clone])
    guider.model_patcher, guider.inner_model = clone, clone.model
    clone.pre_run()
    try:
        yield
    finally:
        clone.cleanup()
        guider.model_patcher, guider.inner_model = before


@contextmanager
def exchanged(entries: list[tuple[dict, str, Any]]) -> Iterator[None]:
    """Puts other objects into tables `(table, name, object)` for a while; what was not there is gone again."""
    before = [(table, name, table.get(name, entries)) for table, name, _ in entries]
    for table, name, value in entries:
        table[name] = value
    try:
        yield
    finally:
        for table, name, value in before:
            table[name] = value
            if value is entries:
                del table[name]


def private_copies(model: nn.Module, keys: Iterable[str]) -> list[tuple[dict, str, nn.Parameter]]:
    """Copies of some parameters of a module, by dotted name, as entries for `exchanged`.

    Hooks write one set of weights after the other into the same storage within one prediction, before the backward
    pass has used the first; each pass therefore works on copies.
    """
    entries = []
    for key in keys:
        path, _, name = key.rpartition(".")
        table = model.get_submodule(path)._parameters
        if name in table:
            entries.append((table, name, nn.Parameter(table[name].detach().clone(), requires_grad=False)))
    return entries
