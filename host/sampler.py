"""Our samplers as native SAMPLER objects of the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import comfy.samplers
import torch
from torch import Tensor

from ..guidance.state import Estimate
from ..operators.noise import sample_generators
from ..samplers.annealed import annealed_restoration
from ..samplers.ddim import NoiseRule, guided_ddim
from .gradients import normal
from .run import Guide, GuidedRun


def native_sampler(guides: Sequence[Guide], trajectory: Callable[..., Tensor]) -> comfy.samplers.KSAMPLER:
    """A SAMPLER that runs `trajectory(model, u, levels, generators, run, callback) -> u` on the guided model."""

    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        extra_args = dict(extra_args or {})
        with GuidedRun(model.inner_model, guides, x) as run:
            if run.jacobian and extra_args.get("denoise_mask") is not None:
                extra_args["denoise_mask"] = normal(extra_args["denoise_mask"])
                model.latent_image, model.noise = normal(model.latent_image), normal(model.noise)
            model_options = extra_args.pop("model_options", {})

            def predict_x0(x_t: Tensor, sigma: Tensor, options: dict) -> Tensor:
                return model(x_t, sigma, model_options=options, **extra_args)

            def guided(u: Tensor, t, s, progress: float, index: int) -> Estimate:
                return run.estimate(predict_x0, u, t, s, progress, index, model_options)

            values = sigmas.tolist()
            levels = [run.level(sigma) for sigma in values]

            def report(i: int, u: Tensor, x0: Tensor) -> None:
                if callback is not None:
                    state = run.space.to_model(u, levels[i].alpha)
                    denoised = run.space.to_model(x0, 1.0)
                    callback({"x": state, "i": i, "sigma": values[i], "sigma_hat": values[i], "denoised": denoised})

            generators = sample_generators(extra_args.get("seed") or 0, x.shape[0])
            with torch.no_grad():
                u = trajectory(guided, run.space.to_native(x, levels[0].alpha), levels, generators, run, report)
            return run.space.to_model(u, levels[-1].alpha)

    return comfy.samplers.KSAMPLER(sample)


def guided_ddim_sampler(guides: Sequence[Guide], amount: float, rule: NoiseRule) -> comfy.samplers.KSAMPLER:
    """Guided DDIM as a SAMPLER; see `samplers.ddim`."""

    def trajectory(model, u, levels, generators, run, callback):
        return guided_ddim(model, u, levels, amount, rule, generators, run.blocks, callback)

    return native_sampler(guides, trajectory)


def annealed_sampler(guides: Sequence[Guide]) -> comfy.samplers.KSAMPLER:
    """Annealed restoration as a SAMPLER; see `samplers.annealed`."""

    def trajectory(model, u, levels, generators, run, callback):
        return annealed_restoration(model, u, levels, callback)

    return native_sampler(guides, trajectory)
