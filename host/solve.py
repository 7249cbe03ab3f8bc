"""The whole way from a measurement to pictures with the host's own parts: guider, noise, SIGMAS, SAMPLER.

The best known path for each damage, where no guidance is given:

    noise only         restoration: the posterior mean, one model call at the noise's own level, x_t = A^+ y
    linear             restoration: annealed, from the smooth inverse
    JPEG and the like  restoration: annealed Pi-GDM without a Jacobian, from the damaged picture with its holes closed
    samples            DPM-Solver++ from noise; Guided DDIM with eta = 1 where much of the picture is gone, for damage
                       that is not linear, and up to 12 steps

Pixels that are known stay the user's own (`own_pixels`), and grey photos stay grey (`guidance.grey`). What was told of
the damage is checked in `solver`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import latent_preview
import torch
from torch import Tensor

from ..guidance.auto import Effort, automatic
from ..guidance.base import Guidance
from ..guidance.grey import Colours, Grey, in_grey, is_grey, stays_grey
from ..measurement.blend import keep_measured, shows_pixels
from ..measurement.measurement import Measurement
from ..measurement.noise import ROUNDING, GaussianNoise
from ..measurement.noise_level import noise_level
from ..operators.identity import Scale
from ..samplers.annealed import AnnealedRestoration, restoration_sigmas_for
from ..samplers.auto import for_latents, for_pictures
from ..samplers.ddim import GuidedDDIM
from .autograd.gradients import is_dynamic
from .autograd.memory import gradient_fits
from .autograd.verified import doubtful
from .run import Guide
from .sampler import GuidedSampler
from .spaces.space import schedule_of
from .spaces.vae import is_latent_vae, latent_size
from .start import decode, start_latent

#: the noise that Observe says when nobody says anything else
SAID = 0.02


@dataclass(frozen=True)
class Path:
    """How a measurement is solved.

    Args:
        measurement: as it is taken, which may say less noise than the user did (`own_pixels`).
        sampler, sigmas: for SamplerCustom.
        start: of `start_latent`; "noise" is the only one to which noise is added.
        kind: "restoration" or "sample".
        words: what was chosen, and why.
        keeps: whether the measured pixels are put back at the end.
        grey: whether the answer is kept grey.
    """

    measurement: Measurement
    sampler: Any
    sigmas: Tensor
    start: str
    kind: str
    words: str
    keeps: bool = False
    grey: bool = False

    def run(
        self, patcher, batch: int, positive, negative, cfg: float, seed: int, vae: Any = None, first: int = 0
    ) -> Tensor:
        """The pictures, `B C H W` in [0, 1].

        Args:
            first: number of the first sample, whose noise is that of its place in a larger batch.
        """
        restores = self.kind == "restoration"
        latent = start_latent(self.measurement, self.start, 1 if restores else batch, vae)
        samples = run_sampler(
            patcher, self.sampler, self.sigmas, latent, positive, negative, cfg, seed, self.start == "noise", first
        )
        images = decode(samples, self.measurement.image_shape, vae)
        images = in_grey(images) if self.grey else images
        return keep_measured(self.measurement, images.float()) if self.keeps else images


def choose(
    patcher, measurement: Measurement, steps: int, restore: bool, guides: Sequence[Guide] = (), vae: Any = None,
    effort: Effort = "normal", cfg: float = 1.0, colours: Colours = "automatic",
) -> Path:  # fmt: skip
    """The best known path for a measurement, or the one that the given guides allow."""
    with torch.inference_mode(False):  # what the run moves and differentiates must be normal tensors
        return _choose(patcher, measurement, steps, restore, guides, vae, effort, cfg, colours)


def _choose(
    patcher, measurement: Measurement, steps: int, restore: bool, guides: Sequence[Guide], vae: Any, effort: Effort,
    cfg: float, colours: Colours,
) -> Path:  # fmt: skip
    latent, grey, keeps = is_latent_vae(vae), stays_grey(measurement, colours), False
    walk = GuidedDDIM(1.0)
    if guides:
        grey = grey and colours != "automatic"  # those who choose their own guidance say so
        words = ", ".join([*(guide.block.label for guide in guides), *(["kept grey, as asked"] if grey else [])])
        guides = (*guides, *_greyed(measurement, vae, grey))
    else:
        given, measurement = measurement, own_pixels(measurement)
        keeps = is_mask(measurement) and measurement.clean and (not grey or is_grey(measurement))
        if restore and not latent and is_only_noise(measurement):
            return posterior_mean(patcher, measurement, grey)
        said = "as asked" if colours == "keep grey" else "as the damaged picture is"
        about = f"; kept grey, {said}" if grey else ""
        if measurement is not given:
            level = given.noise.level
            about = f"; the known pixels look cleaner than sigma_y = {level:g} and were kept as they are{about}"
        if latent and (few := _for_latents(patcher, measurement, steps, vae, cfg)):
            return replace(few, words=few.words + about, keeps=keeps, grey=grey)
        if latent:
            chosen = automatic(measurement, steps, latent)
        else:
            calls = 2 * steps if effort == "best" else steps
            chosen, walk, steps = for_pictures(measurement, calls, restore, has_gradient(patcher, measurement, cfg))
        words = chosen.report + about
        guides = (*(Guide(block, vae) for block in chosen.blocks), *_greyed(measurement, vae, grey))
    if restore and can_restore(guides, vae):
        sigmas, sampler = on_schedule(patcher, restoration_sigmas_for(measurement, steps)), AnnealedRestoration()
        start, kind = "smooth", "restoration"
    else:
        sigmas, sampler, start, kind = sampling_sigmas(patcher, steps), walk, "noise", "sample"
    words = f"{'restoration' if kind == 'restoration' else 'samples'} by {words}; {steps} steps"
    return Path(measurement, GuidedSampler(guides, sampler), sigmas, start, kind, words, keeps, grey)


def _greyed(measurement: Measurement, vae: Any, grey: bool) -> list[Guide]:
    """The block that keeps pictures grey; of a latent model the answer alone is made so."""
    return [Guide(Grey(measurement), vae)] if grey and not is_latent_vae(vae) else []


def has_gradient(patcher, measurement: Measurement, cfg: float) -> bool:
    """Whether the gradient of a model on pictures fits the memory and is certain (`autograd.verified`).

    One that is not would be checked, and refused if it is wrong, only in the run. Weights that move while they run
    would have to be loaded a second time.
    """
    if is_dynamic(patcher):
        return False
    shape, kinds = (1, *measurement.image_shape), 2 if cfg > 1 else 1
    return gradient_fits(patcher, shape, kinds) and not doubtful([patcher.model], patcher.model_options, {})


def _for_latents(patcher, measurement: Measurement, steps: int, vae: Any, cfg: float) -> Path | None:
    """The path of a sampler that brings the measurement in by itself, see `samplers.auto`."""
    _, height, width = measurement.image_shape
    shape = (1, vae.latent_channels, *latent_size(vae, height, width))
    chosen = for_latents(measurement, steps, cfg, gradient_fits(patcher, shape, 2 if cfg > 1 else 1))
    if chosen is None:
        return None
    sampler = GuidedSampler((Guide(Guidance(measurement), vae),), chosen[0])
    words = f"samples by {chosen[1]}; {steps} steps"
    return Path(measurement, sampler, sampling_sigmas(patcher, steps), "noise", "sample", words)


def posterior_mean_only(patcher, measurement: Measurement, vae: Any = None) -> Path | None:
    """The posterior mean by one model call, where there is noise only and the model works on pictures."""
    single = not is_latent_vae(vae) and is_only_noise(measurement)
    return posterior_mean(patcher, measurement, is_grey(measurement)) if single else None


def posterior_mean(patcher, measurement: Measurement, grey: bool = False) -> Path:
    """E[x given y = a x + sigma_y z]: y / a is a state of the level sigma_y / a, and one model call the answer."""
    sigma = 2 * measurement.noise.level / measurement.operator.factor  # [-1, 1] unit
    sigmas = on_schedule(patcher, torch.tensor([sigma, 0.0]))
    words = "restoration by the posterior mean, one model call, because there is noise only"
    return Path(measurement, GuidedSampler((), AnnealedRestoration()), sigmas, "state", "restoration", words, grey=grey)


def is_only_noise(measurement: Measurement) -> bool:
    """Whether all of the picture was seen, with one level of noise that is more than rounding."""
    level = measurement.noise.level
    return isinstance(measurement.operator, Scale) and level is not None and level > ROUNDING


def is_mask(measurement: Measurement) -> bool:
    """Whether what was measured are pixels as they are."""
    return shows_pixels(measurement.operator, measurement.y.new_empty(1, *measurement.image_shape))


def own_pixels(measurement: Measurement) -> Measurement:
    """A mask or frame over a picture that is cleaner than it is said to be, as clean: its pixels are the user's own.

    A level up to 0.02 is the default of a node more often than something that was seen. It holds unless the picture's
    own pixels show clearly less (`measurement.noise_level`, which looks at smooth places and leaves out what the mask
    blackens). On the ten photographs of the repository with a hole, at 96 to 512 pixels, it finds 0.020 to 0.043 where
    there is noise of 0.02, and 0.001 to 0.037 where there is none.
    """
    level, y = measurement.noise.level, measurement.y
    if measurement.rounding == 0 or measurement.clean or not is_mask(measurement) or min(y.shape[-2:]) < 64:
        return measurement
    if level is None or level > SAID or noise_level(y.clamp(0, 1)).max() > 0.85 * level:
        return measurement
    return replace(measurement, noise=GaussianNoise(0.0))


def can_restore(guides: Sequence[Guide], vae: Any = None) -> bool:
    """Whether annealed restoration works: in pixels, with methods that leave the step alone and that correct x0_hat
    by a linear measurement or, such as Pi-GDM without a Jacobian, by a generalised inverse."""
    blocks = [guide.block for guide in guides]
    return not is_latent_vae(vae) and all(
        (b.measurement.operator.linear or b.latent == "pictures") and not b.owns_transition for b in blocks
    )


def on_schedule(patcher, sigmas: Tensor) -> Tensor:
    """Noise levels sigma_t / alpha_t as SIGMAS of the model: flow models have sigma_t = r / (1 + r)."""
    flow = schedule_of(patcher.get_model_object("model_sampling")).family == "flow"
    return sigmas / (1 + sigmas) if flow else sigmas


def flow_times(patcher, times: Sequence[float]) -> Tensor:
    """Times of a flow model (`Level.flow_time`), falling, as SIGMAS of the model, and the final 0."""
    model_sampling = patcher.get_model_object("model_sampling")
    if schedule_of(model_sampling).family != "flow":
        most = float(model_sampling.sigma_max)
        times = [min(u / (1 - u), most) if u < 1 else most for u in times]
    return torch.tensor([*times, 0.0])


def sampling_sigmas(patcher, steps: int) -> Tensor:
    """SIGMAS from pure noise: Karras' spacing for exploding models, the host's simple one for flow models."""
    model_sampling = patcher.get_model_object("model_sampling")
    flow = schedule_of(model_sampling).family == "flow"
    return comfy.samplers.calculate_sigmas(model_sampling, "simple" if flow else "karras", steps)


def run_sampler(
    patcher, sampler, sigmas: Tensor, latent: Tensor, positive, negative, cfg, seed: int, noisy=True, first: int = 0
) -> Tensor:
    """Samples as SamplerCustom does, with previews and progress; gives LATENT samples on the host's device."""
    guider = comfy.samplers.CFGGuider(patcher)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    latent = comfy.sample.fix_empty_latent_channels(patcher, latent)
    places = list(range(first, first + len(latent))) if first else None
    noise = comfy.sample.prepare_noise(latent, seed, places) if noisy else torch.zeros_like(latent)
    callback = latent_preview.prepare_callback(patcher, len(sigmas) - 1)
    samples = guider.sample(noise, latent, sampler, sigmas, callback=callback, disable_pbar=False, seed=seed)
    return samples.to(comfy.model_management.intermediate_device())
