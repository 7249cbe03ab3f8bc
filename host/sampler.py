"""Our samplers as native SAMPLER objects of the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal
from weakref import WeakSet

import comfy.samplers
import torch
from torch import Tensor

from ..algebra.streams import sample_generators
from ..diffusion.level import Level
from ..diffusion.schedule import AXES
from ..guidance.state import Estimate
from ..samplers.annealed import annealed_restoration
from ..samplers.ddim import NoiseRule, guided_ddim, time_travel
from ..samplers.dpm import dpm_solver
from ..samplers.heun import heun
from ..samplers.langevin import annealed_langevin, predictor_corrector
from ..samplers.maruyama import euler_maruyama
from .autograd.gradients import normal
from .run import Guide, GuidedRun, attached_guides, refuse_transitions
from .step_list import require_steps

OdeSolver = Literal["DPM-Solver++ 2M", "Heun", "Euler"]
SdeSolver = Literal["DPM-Solver++ 2M", "Euler-Maruyama VE", "Euler-Maruyama VP", "Euler-Maruyama flow"]
_STREAMS = 0x5A17
#: guiders whose MODEL's guides a sampler of ours listens to now
LISTENING: WeakSet = WeakSet()


@contextmanager
def _listening(guider) -> Iterator[None]:
    LISTENING.add(guider)
    try:
        yield
    finally:
        LISTENING.discard(guider)


class GuidedSampler(comfy.samplers.KSAMPLER):
    """A SAMPLER that runs `trajectory(model, u, levels, generators, run, callback) -> u` on the guided model.

    It listens to `guides` after those that the MODEL brings along.

    Args:
        transitions: whether the trajectory lets blocks change the step itself.

    Raises:
        Refusal: for blocks that do, where it does not.
    """

    def __init__(self, guides: Sequence[Guide], trajectory: Callable[..., Tensor], transitions: bool = False):
        super().__init__(None)
        if not transitions:
            refuse_transitions(guides)
        del self.sampler_function  # ours is a method: a bound one in its place would tie the object to itself
        self.guides, self.trajectory = tuple(guides), trajectory

    def sampler_function(self, model, x: Tensor, sigmas: Tensor, extra_args=None, callback=None, disable=None):
        """model: the host's denoiser with its mask, `(x, sigma, denoise_mask, model_options, seed)` to x0_hat."""
        guider, extra_args = model.inner_model, dict(extra_args or {})
        model_options = extra_args.pop("model_options", {})
        guides = (*attached_guides(guider.model_patcher), *self.guides)
        require_steps(sigmas.tolist(), falling=bool(guides))
        with _listening(guider), GuidedRun(guider, guides, x) as run:
            if run.jacobian and extra_args.get("denoise_mask") is not None:
                extra_args["denoise_mask"] = normal(extra_args["denoise_mask"])
            levels = [run.level(sigma) for sigma in sigmas.tolist()]

            def predict_x0(x_t: Tensor, sigma: Tensor, options: dict) -> Tensor:
                return model(x_t, sigma, model_options=options, **extra_args)

            at = levels[0]

            def guided(u: Tensor, t: Level, s: Level, progress: float, index: int) -> Estimate:
                nonlocal at
                at = t
                return run.estimate(predict_x0, u, t, s, progress, index, model_options)

            def report(i: int, u: Tensor, x0: Tensor) -> None:
                if callback is not None:
                    sigma = at.sigma * run.space.scale
                    state, denoised = run.space.to_model(u, at.alpha), run.space.to_model(x0, 1.0)
                    callback({"x": state, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})

            # streams of their own: a measurement simulated with the same seed must not share its noise
            generators = sample_generators((extra_args.get("seed") or 0) + _STREAMS, x.shape[0])
            with torch.no_grad():
                u = run.space.to_native(x, levels[0].alpha)
                u = self.trajectory(guided, u, levels, generators, run, report)
            return run.space.to_model(u, levels[-1].alpha)


def guided_ddim_sampler(
    guides: Sequence[Guide],
    amount: float,
    rule: NoiseRule,
    repeats: int = 1,
    jump: int = 10,
    start: float = 0.0,
    end: float = 1.0,
) -> GuidedSampler:
    """Guided DDIM as a SAMPLER; see `samplers.ddim`."""

    def trajectory(model, u, levels, generators, run, callback):
        path = time_travel(len(levels) - 1, jump, repeats, start, end)
        return guided_ddim(model, u, levels, amount, rule, generators, run.blocks, callback, path)

    return GuidedSampler(guides, trajectory, transitions=True)


def annealed_sampler(guides: Sequence[Guide]) -> GuidedSampler:
    """Annealed restoration as a SAMPLER; see `samplers.annealed`."""

    def trajectory(model, u, levels, generators, run, callback):
        return annealed_restoration(model, u, levels, callback)

    return GuidedSampler(guides, trajectory)


def ode_sampler(guides: Sequence[Guide], solver: OdeSolver) -> GuidedSampler:
    """The probability-flow ODE as a SAMPLER; see `samplers.dpm`, `samplers.heun`, and `samplers.ddim` for Euler."""

    def trajectory(model, u, levels, generators, run, callback):
        solve = {"DPM-Solver++ 2M": dpm_solver, "Heun": heun, "Euler": guided_ddim}[solver]
        return solve(model, u, levels, callback=callback)

    return GuidedSampler(guides, trajectory)


def sde_sampler(guides: Sequence[Guide], solver: SdeSolver) -> GuidedSampler:
    """The reverse SDE as a SAMPLER; see `samplers.dpm` and `samplers.maruyama`."""

    def trajectory(model, u, levels, generators, run, callback):
        if solver == "DPM-Solver++ 2M":
            return dpm_solver(model, u, levels, True, generators, callback)
        return euler_maruyama(model, u, levels, AXES[solver.removeprefix("Euler-Maruyama ")], generators, callback)

    return GuidedSampler(guides, trajectory)


def langevin_sampler(guides: Sequence[Guide], corrections: int, size: float) -> GuidedSampler:
    """Annealed Langevin as a SAMPLER; see `samplers.langevin`."""

    def trajectory(model, u, levels, generators, run, callback):
        return annealed_langevin(model, u, levels, corrections, size, generators, callback)

    return GuidedSampler(guides, trajectory)


def predictor_corrector_sampler(guides: Sequence[Guide], amount: float, corrections: int, snr: float) -> GuidedSampler:
    """Predictor-corrector as a SAMPLER; see `samplers.langevin`."""

    def trajectory(model, u, levels, generators, run, callback):
        return predictor_corrector(model, u, levels, corrections, snr, amount, generators, callback)

    return GuidedSampler(guides, trajectory)
