"""What was told of the damage, checked against the photo, and then the best known path to the pictures.

the photo contradicts it, or it is a guess     taken as the photo shows it (`measurement.as_seen`)
a guess that no formula reads off the photo    found with the picture (`samplers.blind`), then taken as found
a restoration that misses what was seen        made again with the noise that it left (`unexplained`)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from ..guidance.auto import Effort
from ..guidance.diffpir import PHOTOS, DiffPIR
from ..guidance.grey import Colours
from ..measurement.as_seen import Seen, as_seen, in_words, numbers
from ..measurement.measurement import Measurement
from ..measurement.noise import GaussianNoise
from ..operators.base import Operator
from ..operators.compose import Composition, compose
from ..operators.families import Blur
from ..operators.identity import Identity
from ..samplers.annealed import AnnealedRestoration, restoration_sigmas
from ..samplers.blind import DETAIL, Blind
from ..samplers.unknown import Unknown
from .models.tiled import fitting
from .run import Guide
from .sampler import GuidedSampler
from .solve import Path, choose, on_schedule, run_sampler
from .spaces.vae import is_latent_vae
from .start import start_latent

#: levels of the search for an unknown blur, from and to, and their number: those of `bench blind_kernels`
SEARCH = (1.0, 0.03, 16)


def solve(
    patcher, measurement: Measurement, steps: int, restore: bool, guides: Sequence[Guide] = (), vae=None,
    effort: Effort = "normal", cfg: float = 1.0, colours: Colours = "automatic", **how,
) -> tuple[Tensor, Path]:  # fmt: skip
    """The pictures, `B C H W` in [0, 1], and the path that led to them, with the measurement that they are judged by.

    Args:
        how: of `Path.run`: batch, positive, negative, seed.
    """
    seen = Seen(measurement) if guides else as_seen(measurement)
    if any(part.unknown for part in parts(seen.measurement.operator)):
        why, prompts = "guidance is connected", (how["positive"], how["negative"])
        found = as_told(measurement, why) if guides else searched(patcher, seen.measurement, vae, *prompts)
        seen = replace(found, words=joined(found.words, seen.words))
    measurement = seen.measurement
    path = choose(patcher, measurement, steps, restore, guides, vae, effort, cfg, colours)
    model, windows = fitting(patcher, path.measurement, path.keeps)
    path = replace(path, words=joined(path.words, seen.words, windows))
    images = path.run(model, vae=vae, cfg=cfg, **how)
    noise = None if guides or path.kind == "sample" else unexplained(path.measurement, images)
    if noise is None:
        return images, path
    again = choose(patcher, replace(measurement, noise=noise), steps, restore, guides, vae, effort, cfg, colours)
    words = f"with sigma_y = {noise.sigma:.2g}, as less noise could not explain what was seen"
    model, _ = fitting(patcher, again.measurement, again.keeps)
    return again.run(model, vae=vae, cfg=cfg, **how), replace(path, words=joined(again.words, seen.words, words))


def joined(*words: str) -> str:
    return "; ".join(filter(None, words))


def unexplained(measurement: Measurement, images: Tensor) -> GaussianNoise | None:
    """The noise that a restoration's residual shows, where it is more than three times what was said.

    Morozov's discrepancy principle (1966): a picture need not fit better than the noise, and the noise of a blurred
    JPEG, or of a blur that is not quite the one that was told, is more than what a smooth place shows. To fit it all
    the same takes a picture of ripples. Methods that meet y exactly have nothing to find.
    """
    resolved = measurement.resolved()
    level = resolved.noise.level
    if not (measurement.operator.linear and resolved.noisy) or measurement.noise.level is None:
        return None
    residual = measurement.residual_rms(images.to(measurement.y)).max().item()
    return GaussianNoise(residual) if residual > 3 * level else None


def parts(operator: Operator) -> list[Operator]:
    """What happened, the last first."""
    if isinstance(operator, Composition) and not operator.unknown:
        return [*parts(operator.outer), *parts(operator.inner)]
    return [operator]


def searched(patcher, measurement: Measurement, vae, positive, negative) -> Seen:
    """A blur found together with a restoration: any kernel, or a kind of blur that something happened after."""
    *later, first = parts(measurement.operator)
    after, family = reduce(compose, later) if later else Identity(), first.family
    if not first.unknown:
        return as_told(measurement, "what is to be found must have happened first")
    if not isinstance(family, Blur) or family.boundary == "valid":
        return as_told(measurement, "only levels alone, and blurs with a border that is known, can be found")
    if is_latent_vae(vae):
        return as_told(measurement, "to find them takes a model that works on pictures")
    if not after.linear:
        return as_told(measurement, f"what came after it, {after.label}, is not linear")
    known, record = replace(measurement, operator=after), {}
    with torch.inference_mode(False):
        sampler = Blind(Unknown(family, rounds=2), AnnealedRestoration(), 0.0, DETAIL)
        guided = GuidedSampler((Guide(DiffPIR(known, deviation=PHOTOS)),), sampler, record)
        sigmas = on_schedule(patcher, restoration_sigmas(*SEARCH))
    run_sampler(patcher, guided, sigmas, start_latent(known, "smooth", 1), positive, negative, 1.0, 0, noisy=False)
    with torch.inference_mode(False):
        theta = record["theta"].detach().clone().cpu()
        found = family.operator(theta)
        operator = compose(after, found) if later else found
    words = in_words(family, numbers(family, family.start()), numbers(family, theta[0]))
    return Seen(replace(measurement, operator=operator), words or "a blur of any shape was found with the picture")


def as_told(measurement: Measurement, why: str) -> Seen:
    """The measurement as it is."""
    return Seen(measurement, f"the numbers of the damage were taken as told: {why}")
