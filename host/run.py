"""One guided sampling run inside the host: the loaded MODEL as a conditional denoiser.

The host hands its sampler a callable (x, sigma) that gives the CFG'd denoised prediction. `GuidedRun` turns it into
the conditional denoiser of our samplers, in the measurement's coordinates, with gradients where a block needs them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from ..diffusion.level import Level
from ..guidance.base import Guidance, combine, needs_jacobian, vjp_calls
from ..guidance.state import Estimate, predict
from .autograd.calls import DifferentiableCalls
from .autograd.economy import is_out_of_memory
from .autograd.gradients import GradientScope, normal_tree, static_weights
from .autograd.memory import out_of_memory, reserve
from .spaces.space import ModelSpace, schedule_of, space_of
from .trace import Trace


@dataclass(frozen=True)
class Guide:
    """A LIKELIHOOD_GUIDANCE element: a block, and the VAE through which a latent model sees the picture.

    Args:
        trace: where to note how each step went, see `host.trace`.
    """

    block: Guidance
    vae: Any = None
    trace: Trace | None = None


def refuse_transitions(guides: Sequence[Guide]) -> None:
    """Refuses blocks that change the step itself, where the sampler does not let them."""
    for guide in guides:
        if guide.block.owns_transition:
            raise Refusal(
                f"{guide.block.label} changes how a step is made, which only the Guided DDIM Sampler allows; connect "
                "it there."
            )


Predict = Callable[[Tensor, Tensor, dict], Tensor]
#: where a MODEL keeps the guides that Apply Guidance gave it
ATTACHMENT = "posterior"


def attached_guides(patcher) -> tuple[Guide, ...]:
    """The guides that a MODEL carries."""
    return patcher.get_attachment(ATTACHMENT) or ()


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
        guides = [guide for guide in guides if guide.block.active]
        if guides and x.ndim != 4:
            raise Refusal("This latent is video or sound; guidance works on pictures.")
        self.schedule = schedule_of(model.model_sampling)
        vaes = {id(guide.vae): guide.vae for guide in guides if guide.vae is not None}
        if len(vaes) > 1:
            raise Refusal("The guidance blocks use different VAEs; connect the same one to each.")
        self.space = space_of(model, next(iter(vaes.values()), None)) if guides else ModelSpace()
        self.blocks = [self._bind(guide, x) for guide in guides]
        self.jacobian = any(block.jacobian for block in self.blocks)
        self._trace = next((guide.trace for guide in guides if guide.trace is not None), None)
        self._decodes = bool(self.space.patchers())
        self._guider = guider
        self._shape = tuple(x.shape)
        self._model_calls = 0
        self._stack = ExitStack()

    def _bind(self, guide: Guide, x: Tensor) -> Guidance:
        """The block on the device of x, on native coordinates; refuses what does not fit."""
        measurement = guide.block.measurement
        if measurement.y.shape[0] not in (1, x.shape[0]):
            raise Refusal(
                f"The measurement holds {measurement.y.shape[0]} pictures and the latent {x.shape[0]}; "
                "give one measurement for all, or one for each."
            )
        with torch.inference_mode(False):  # what is moved must stay differentiable
            return self.space.bind(guide.block, tuple(x.shape)).to(x.device, x.dtype)

    def __enter__(self) -> GuidedRun:
        if self._trace is not None:
            self._trace.begin(self.blocks)
        with self._stack as entering:
            if self.jacobian:
                entering.enter_context(static_weights(self._guider))
                self._guider.conds = normal_tree(self._guider.conds)
            if self.jacobian or self._decodes:
                economy = reserve(self._guider, self._shape, self.space, self.jacobian)
                self.space.save(economy)
                modules = [patcher.model for patcher in self.space.patchers()]
                if self.jacobian:
                    modules += [self._guider.inner_model, *(patcher.model for patcher in self._guider.loaded_models)]
                self._calls = DifferentiableCalls(entering.enter_context(GradientScope(modules)), economy)
            self._stack = entering.pop_all()
        return self

    def __exit__(self, *exc_info) -> None:
        self._stack.close()
        methods = ", ".join(block.label for block in self.blocks) or "unguided"
        logging.info("posterior: %s, %d model calls", methods, self._model_calls)

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

        A pass with a gradient that fails for want of memory is made again in a more sparing way.
        """
        while True:
            try:
                return self._estimate(predict_x0, u, t, s, progress, index, model_options or {})
            except RuntimeError as error:
                differentiates = self.jacobian or self._decodes
                economy = self._calls.economy.after(error, u.shape[0], self._decodes) if differentiates else None
                if economy is None:
                    if differentiates and is_out_of_memory(error):
                        raise out_of_memory() from error
                    raise
            # out here the error is gone, and the graph with it
            self._calls.economy = economy
            self.space.save(economy)
            comfy.model_management.soft_empty_cache()
            logging.info("posterior: the gradient pass is made again, %s", economy)

    def _estimate(self, predict_x0: Predict, u: Tensor, t: Level, s, progress, index, options: dict) -> Estimate:
        jacobian = needs_jacobian(self.blocks, progress, index)
        if jacobian:
            options = self._calls.options(options)

        def denoiser(native: Tensor, level: Level) -> Tensor:
            self._model_calls += 1
            sigma = native.new_full((native.shape[0],), level.sigma * self.space.scale)
            x0 = predict_x0(self.space.to_model(native, level.alpha), sigma, options)
            return self.space.to_native(x0, 1.0)

        if jacobian:
            self._calls.verify(lambda x: denoiser(x, t), u, self._guider.inner_model, options)
        calls = vjp_calls(self.blocks, progress, index)
        state = predict(denoiser, u, t, jacobian, calls, s=s, progress=progress, index=index)
        self._require_finite(state.x0, "the model's own prediction", t)
        estimate = combine(self.blocks, state)
        if self.blocks:
            self._require_finite(estimate.x0 + estimate.shift, "the guidance", t)
        if self._trace is not None:
            self._trace.note(self.blocks, state.x0, estimate, t, s)
        return estimate

    def _require_finite(self, x0: Tensor, source: str, t: Level) -> None:
        if not torch.isfinite(x0).all():
            raise FloatingPointError(
                f"Sampling stopped at sigma {t.sigma * self.space.scale:.4g}: {source} is not a finite number; "
                "lower the guidance strength, or use a higher precision for the model."
            )
