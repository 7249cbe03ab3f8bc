"""One guided sampling run inside the host: the loaded MODEL as a conditional denoiser.

The host hands its sampler a callable (x, sigma) that gives the CFG'd denoised prediction. `GuidedRun` turns it into
the conditional denoiser of our samplers, in the measurement's coordinates, with gradients where a block needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..guidance.base import Guidance, combine, needs_jacobian
from ..guidance.state import Estimate, Level, predict
from ..operators.errors import Refusal
from .gradients import GradientScope, differentiable_options, normal_tree
from .space import ModelSpace, schedule_of, space_of


@dataclass(frozen=True)
class Guide:
    """A LIKELIHOOD_GUIDANCE element: a block, and the VAE through which a latent model sees the picture."""

    block: Guidance
    vae: Any = None


Predict = Callable[[Tensor, Tensor, dict], Tensor]


class GuidedRun:
    """The conditional denoiser of one run; a context manager that leaves the host as it was.

    Args:
        guider: the host's guider (its `inner_model` is loaded, its `conds` are processed).
        guides: any number of blocks, none for unguided sampling.
        x: the state that the run starts from, `B C H W` in model coordinates.

    Raises:
        Refusal: when a guide does not fit the model or the size of x, before the first model call.
    """

    def __init__(self, guider, guides: Sequence[Guide], x: Tensor):
        model = guider.inner_model
        if x.ndim != 4:
            raise Refusal("This latent is video or sound; guidance works on pictures.")
        guides = [guide for guide in guides if guide.block.timing.strength]
        self.schedule = schedule_of(model.model_sampling)
        vaes = {id(guide.vae): guide.vae for guide in guides if guide.vae is not None}
        if len(vaes) > 1:
            raise Refusal("The guidance blocks use different VAEs; connect the same one to each.")
        self.space = space_of(model, next(iter(vaes.values()), None)) if guides else ModelSpace()
        self.blocks = [self._bind(guide, x) for guide in guides]
        self.jacobian = any(block.jacobian for block in self.blocks)
        self._guider = guider
        self._stack = ExitStack()
        if self.jacobian:
            patcher = guider.model_patcher
            extra = [p.model for p in patcher.get_nested_additional_models()]
            self._scope = GradientScope([model, *extra, *self.space.modules()])

    def _bind(self, guide: Guide, x: Tensor) -> Guidance:
        """The block on the device of x, on native coordinates; refuses what does not fit."""
        measurement = guide.block.measurement
        self.space.check(tuple(x.shape), measurement.image_shape)
        if measurement.y.shape[0] not in (1, x.shape[0]):
            raise Refusal(
                f"The measurement holds {measurement.y.shape[0]} pictures and the latent {x.shape[0]}; "
                "give one measurement for all, or one for each."
            )
        measurement = replace(measurement, operator=self.space.operator(measurement.operator))
        return replace(guide.block, measurement=measurement).to(x.device, x.dtype)

    def __enter__(self) -> GuidedRun:
        if self.jacobian:
            self._stack.enter_context(self._scope)
            self._guider.conds = normal_tree(self._guider.conds)
        return self

    def __exit__(self, *exc_info) -> None:
        self._stack.close()

    def level(self, sigma: float) -> Level:
        """A value of the host's SIGMAS as a native noise level."""
        return self.space.level(self.schedule.level(sigma))

    def estimate(
        self,
        predict_x0: Predict,
        u: Tensor,
        t: Level,
        s: Level | None = None,
        progress: float = 0.0,
        index: int = 0,
        model_options: dict | None = None,
    ) -> Estimate:
        """x0_hat(y) at the native state u.

        Args:
            predict_x0: (x, sigma, model_options) to the host's denoised prediction, model coordinates.
        """
        options = model_options or {}
        jacobian = needs_jacobian(self.blocks, progress, index)
        if jacobian:
            self._scope.refresh()
            options = differentiable_options(options)

        def denoiser(native: Tensor, level: Level) -> Tensor:
            sigma = native.new_full((native.shape[0],), level.sigma * self.space.scale)
            x0 = predict_x0(self.space.to_model(native, level.alpha), sigma, options)
            return self.space.to_native(x0, 1.0)

        state = predict(denoiser, u, t, jacobian, s=s, progress=progress, index=index)
        self._require_finite(state.x0, "the model's own prediction", t)
        estimate = combine(self.blocks, state)
        if self.blocks:
            self._require_finite(estimate.x0 + estimate.shift, "the guidance", t)
        return estimate

    def _require_finite(self, x0: Tensor, source: str, t: Level) -> None:
        if not torch.isfinite(x0).all():
            raise FloatingPointError(
                f"Sampling stopped at sigma {t.sigma * self.space.scale:.4g}: {source} is not a finite number; "
                "lower the guidance strength, or use a higher precision for the model."
            )
