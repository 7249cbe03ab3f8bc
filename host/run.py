"""One guided sampling run inside the host: the loaded MODEL as a prior, guided by the blocks that it is given.

The host hands its sampler a callable (x, sigma) that gives the CFG'd denoised prediction. `GuidedRun` prepares the host
for the run and puts everything back; `HostRun` is what our samplers get, in the measurement's coordinates.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import comfy.model_management
import torch
from torch import Tensor

from ..algebra.autograd import pulled_back, traced
from ..algebra.refusal import Refusal
from ..algebra.streams import Streams
from ..diffusion.level import Level
from ..diffusion.run import Run
from ..diffusion.state import Estimate, Vjp
from ..guidance.base import Guidance
from .autograd.calls import DifferentiableCalls
from .autograd.gradients import GradientScope, normal_tree, static_weights
from .autograd.memory import out_of_memory, reserve
from .autograd.memory_plan import is_out_of_memory
from .models.pixel_model import require_prompt
from .record import RunRecord
from .spaces.latents import one_frame
from .spaces.space import ModelSpace, schedule_of, space_of
from .spaces.vae import require_sound
from .watch import interruptible

Value = TypeVar("Value")


@dataclass(frozen=True)
class Guide:
    """A LIKELIHOOD_GUIDANCE element: a block, and the VAE through which a latent model sees the picture.

    Args:
        trace: where to note how each step went, see `host.record`.
    """

    block: Guidance
    vae: Any = None
    trace: RunRecord | None = None


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
    """The host prepared for one run; a context manager that leaves it as it was.

    Args:
        guider: the host's guider (its `inner_model` is loaded, its `conds` are processed).
        guides: any number of blocks, none for unguided sampling.
        x: the state that the run starts from, `B C H W` or `B C 1 H W` in model coordinates.
        jacobian: whether the sampler differentiates the model, whatever the blocks do.

    Raises:
        Refusal: when a guide does not fit the model or the size of x, before the first model call.
    """

    def __init__(self, guider, guides: Sequence[Guide], x: Tensor, jacobian: bool = False):
        model = guider.inner_model
        guides = [guide for guide in guides if guide.block.active]
        x = one_frame(x) if guides else x
        self.schedule = schedule_of(model.model_sampling)
        vaes = {id(guide.vae): guide.vae for guide in guides if guide.vae is not None}
        if len(vaes) > 1:
            raise Refusal("The guidance blocks use different VAEs; connect the same one to each.")
        self.space = space_of(model, next(iter(vaes.values()), None)) if guides else ModelSpace()
        self.blocks = [self._bind(guide, x) for guide in guides]
        if guides:
            require_prompt(model, guider.conds)
        self.jacobian = jacobian or any(block.jacobian for block in self.blocks)
        self.trace = next((guide.trace for guide in guides if guide.trace is not None), None)
        self.calls: DifferentiableCalls | None = None
        self.model_calls = 0
        self.x0 = torch.zeros(())  # the model's last prediction
        self._decodes = bool(self.space.patchers())
        self.guider = guider
        self._shape = tuple(x.shape)
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
        if self.trace is not None:
            self.trace.begin(self.blocks)
        with self._stack as entering:
            entering.enter_context(interruptible())  # the sampler shows the progress
            if self.jacobian:
                entering.enter_context(static_weights(self.guider))
                self.guider.conds = normal_tree(self.guider.conds)
            if self.jacobian or self._decodes:
                plan = reserve(self.guider, self._shape, self.space, self.jacobian)
                self.space.save(plan)
                modules = [patcher.model for patcher in self.space.patchers()]
                if self.jacobian:
                    modules += [self.guider.inner_model, *(patcher.model for patcher in self.guider.loaded_models)]
                self.calls = DifferentiableCalls(entering.enter_context(GradientScope(modules)), plan)
            self._stack = entering.pop_all()
        return self

    def __exit__(self, *exc_info) -> None:
        self._stack.close()
        methods = ", ".join(block.label for block in self.blocks) or "unguided"
        logging.info("posterior: %s, %d model calls", methods, self.model_calls)

    def level(self, sigma: float) -> Level:
        """A value of the host's SIGMAS as a native noise level."""
        return self.space.level(self.schedule.level(sigma))

    def run(self, predict: Predict, sigmas: Sequence[float], draw: Streams, options: dict | None = None) -> HostRun:
        """What a sampler gets.

        Args:
            predict: (x, sigma, model_options) to the host's denoised prediction, model coordinates.
            options: the model options of its calls.
        """
        levels = [self.level(sigma) for sigma in sigmas]
        prior = HostPrior(self, predict, options or {})
        record = {} if self.trace is None else self.trace.record
        return HostRun(prior, levels, self.blocks, draw, record=record, schedule=self.schedule, host=self)

    def sparing(self, call: Callable[[], Value]) -> Value:
        """What `call` gives; made again in a more sparing way when its gradient fails for want of memory."""
        while True:
            try:
                return call()
            except RuntimeError as error:
                plan = self.calls and self.calls.plan.after(error, self._shape[0], self._decodes)
                if plan is None:
                    if self.calls and is_out_of_memory(error):
                        raise out_of_memory() from error
                    raise
            # out here the error is gone, and the graph with it
            self.calls.plan = plan
            self.space.save(plan)
            comfy.model_management.soft_empty_cache()
            logging.info("posterior: the gradient pass is made again, %s", plan)

    def require_finite(self, x0: Tensor, t: Level) -> None:
        """Stops a run that has gone astray, and says where it did. The device is waited for once."""
        sound = self.space.sound()
        if torch.stack([torch.isfinite(x0).all(), *sound]).all():
            return
        for each in sound:
            require_sound(each)
        source = "the guidance" if torch.isfinite(self.x0).all() else "the model's own prediction"
        raise FloatingPointError(
            f"Sampling stopped at sigma {t.sigma * self.space.scale:.4g}: {source} is not a finite number; "
            "lower the guidance strength, or use a higher precision for the model."
        )


class HostPrior:
    """The loaded MODEL, unguided, in the measurement's coordinates.

    Args:
        host: the run that it belongs to.
        predict, options: see `GuidedRun.run`.
    """

    def __init__(self, host: GuidedRun, predict: Predict, options: dict):
        self._host, self._predict, self._options = host, predict, options

    def prompted(self, share: float) -> HostPrior:
        """This model with its CFG at 1 + share (cfg - 1); guiders that do not ask for it keep their own."""
        mix = self._options.get("sampler_cfg_function", _plain_cfg)

        def scaled(args: dict) -> Tensor:
            return mix({**args, "cond_scale": 1 + share * (args["cond_scale"] - 1)})

        return HostPrior(self._host, self._predict, {**self._options, "sampler_cfg_function": scaled})

    def __call__(self, x: Tensor, t: Level) -> Tensor:
        self._host.x0 = self._x0(x, t, self._options)
        return self._host.x0

    def linearise(self, x: Tensor, t: Level) -> tuple[Tensor, Vjp]:
        """A pass that fails for want of memory, forward or backward, is made again in a more sparing way."""

        def forward() -> tuple[Tensor, Tensor]:
            options = self._host.calls.options(self._options)
            self._host.calls.verify(lambda u: self._x0(u, t, options), x, self._host.guider, options)
            return traced(lambda u: self._x0(u, t, options), x)

        graph = self._host.sparing(forward)
        self._host.x0 = graph[1].detach()

        def vjp(v: Tensor, last: bool = False) -> Tensor:
            nonlocal graph

            def backward() -> Tensor:
                nonlocal graph
                leaf, x0 = graph or forward()
                graph = None  # a pass that fails must not keep it
                gradient = pulled_back(x0, leaf, v, keep=not last, apart=True)
                graph = leaf, x0
                return gradient

            return self._host.sparing(backward)

        return self._host.x0, vjp

    def _x0(self, x: Tensor, t: Level, options: dict) -> Tensor:
        self._host.model_calls += 1
        space = self._host.space
        sigma = x.new_full((x.shape[0],), t.sigma * space.scale)
        return space.to_native(self._predict(space.to_model(x, t.alpha), sigma, options), 1.0)


def _plain_cfg(args: dict) -> Tensor:
    """Classifier-free guidance in the host's form for functions of one's own: noises x - x0_hat in, and out."""
    return args["uncond"] + args["cond_scale"] * (args["cond"] - args["uncond"])


@dataclass
class HostRun(Run):
    """A run on the host's model.

    Args:
        host: the host, prepared.
    """

    host: GuidedRun | None = None

    def guided(self, x: Tensor, t: Level, s: Level | None = None, index: int = 0) -> Estimate:
        estimate = self.host.sparing(lambda: super(HostRun, self).guided(x, t, s, index))
        if self.host.trace is not None and self.blocks:
            self.host.trace.note(self.blocks, self.host.x0, estimate, t, s)
        return estimate

    def prompted(self, share: float) -> HostPrior:
        return self.prior.prompted(share)
