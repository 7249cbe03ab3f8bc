"""A prior that counts what it is asked for."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..diffusion.level import Level


class Counted:
    """A denoiser (x, t) -> E[x_0|x_t] whose `calls` are its passes, of which a backward pass is one too."""

    def __init__(self, denoiser: Callable[[Tensor, Level], Tensor]):
        self._denoiser, self.calls = denoiser, 0

    def __call__(self, x: Tensor, t: Level) -> Tensor:
        self.calls += 1
        x0 = self._denoiser(x, t)
        if x0.requires_grad:
            x0.register_hook(self._backward)
        return x0

    def _backward(self, gradient: Tensor) -> None:
        self.calls += 1
