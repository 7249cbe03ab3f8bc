"""Our samplers as native SAMPLER objects of the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import comfy.samplers
import torch
from torch import Tensor

from ..guidance.state import Estimate, Level
from ..operators.noise import sample_generators
from ..samplers.annealed import annealed_restoration
from ..samplers.ddim import NoiseRule, guided_ddim
from .gradients import normal
from .run import Guide, GuidedRun, attached_guides

_STREAMS = 0x5A17


class GuidedSampler(comfy.samplers.KSAMPLER):
    """A SAMPLER that runs `trajectory(model, u, levels, generators, run, callback) -> u` on the guided model.

    It listens to `guides` after those that the MODEL brings along.
    """

    def __init__(self, guides: Sequence[Guide], trajectory: Callable[..., Tensor]):
        super().__init__(None)
        del self.sampler_function  # ours is a method: a bound one in its place would tie the object to itself
        self.guides, self.trajectory = tuple(guides), trajectory

    def sampler_function(self, model, x: Tensor, sigmas: Tensor, extra_args=None, callback=None, disable=None):
        """model: the host's denoiser with its mask, `(x, sigma, denoise_mask, model_options, seed)` to x0_hat."""
        guider, extra_args = model.inner_model, dict(extra_args or {})
        model_options = extra_args.pop("model_options", {})
        with GuidedRun(guider, (*attached_guides(guider.model_patcher), *self.guides), x) as run:
            if run.jacobian and extra_args.get("denoise_mask") is not None:
                extra_args["denoise_mask"] = normal(extra_args["denoise_mask"])
                model.latent_image, model.noise = normal(model.latent_image), normal(model.noise)
            values = sigmas.tolist()
            levels = [run.level(sigma) for sigma in values]

            def predict_x0(x_t: Tensor, sigma: Tensor, options: dict) -> Tensor:
                return model(x_t, sigma, model_options=options, **extra_args)

            def guided(u: Tensor, t: Level, s: Level, progress: float, index: int) -> Estimate:
                return run.estimate(predict_x0, u, t, s, progress, index, model_options)

            def report(i: int, u: Tensor, x0: Tensor) -> None:
                if callback is not None:
                    state = run.space.to_model(u, levels[i].alpha)
                    denoised = run.space.to_model(x0, 1.0)
                    callback({"x": state, "i": i, "sigma": values[i], "sigma_hat": values[i], "denoised": denoised})

            # streams of their own: a measurement simulated with the same seed must not share its noise
            generators = sample_generators((extra_args.get("seed") or 0) + _STREAMS, x.shape[0])
            with torch.no_grad():
                u = run.space.to_native(x, levels[0].alpha)
                u = self.trajectory(guided, u, levels, generators, run, report)
            return run.space.to_model(u, levels[-1].alpha)


def guided_ddim_sampler(guides: Sequence[Guide], amount: float, rule: NoiseRule) -> GuidedSampler:
    """Guided DDIM as a SAMPLER; see `samplers.ddim`."""

    def trajectory(model, u, levels, generators, run, callback):
        return guided_ddim(model, u, levels, amount, rule, generators, run.blocks, callback)

    return GuidedSampler(guides, trajectory)


def annealed_sampler(guides: Sequence[Guide]) -> GuidedSampler:
    """Annealed restoration as a SAMPLER; see `samplers.annealed`."""

    def trajectory(model, u, levels, generators, run, callback):
        return annealed_restoration(model, u, levels, callback)

    return GuidedSampler(guides, trajectory)
