"""A method that fits a measurement, chosen by what its operator and noise allow."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch

from ..algebra.refusal import Refusal
from ..measurement.measurement import Measurement
from ..measurement.noise import ROUNDING
from ..measurement.seen_noise import rounding_as_noise
from ..operators.base import Operator
from ..operators.compose import Composition
from ..operators.jpeg import JPEG
from ..operators.pointwise import Palette, Quantisation
from ..operators.spectral import weakest
from .base import Guidance
from .ddnm import DDNM
from .diffpir import PHOTOS, DiffPIR
from .dps import DPS
from .pigdm import PiGDM, PiGDMPublished
from .reach import ReachingPiGDM, seen_and_deep
from .timing import Timing

#: how far a restoration goes towards A^+(y) in each step where A rounds (JPEG): A^+(y) - A^+(A(x0_hat)) is a whole
#: number of quantisation steps, so that a coefficient just outside of its interval is thrown to the other end of it.
#: Chosen on five crops of 64 x 64 of photographs that the embedded prior was trained on, qualities 8 and 30, 12 steps:
#: 25.3, 26.1 and 25.9 dB, and 30.1, 30.9 and 30.5, at 1, 1/2 and 1/4 (the JPEG itself 24.9 and 29.6; one model call at
#: its best level 26.0 and 30.5)
HALF = Timing(0.5)
#: up to so many steps a latent model is taken for one that was made for few
FEW = 12
#: share of the sampling in which a gradient through the model is worth its call, see `automatic`
EARLY = 0.5
#: share of the picture deep inside of what was not measured (`deep`), from which on it is
WIDE = 0.1
#: the next best restoration, by DiffPIR's trust
NEXT = {1.0: "DDNM", 0.5: "DiffPIR, trust 0.25", 0.25: "DiffPIR, trust 0.5"}
Effort = Literal["normal", "best"]
EFFORTS = get_args(Effort)


class Choice(NamedTuple):
    """What was chosen.

    Args:
        blocks: the methods, one after the other.
        words: which, and why.
        runner_up: the next best in `bench frontier`.
    """

    blocks: tuple[Guidance, ...]
    words: str
    runner_up: str = ""

    @property
    def report(self) -> str:
        return f"{self.words}; next best: {self.runner_up}" if self.runner_up else self.words


def automatic(
    measurement: Measurement, steps: int, latent: bool = False, restore: bool = False, gradient: bool = False
) -> Choice:
    """The methods, and the choice in words.

    Where much of the picture is gone, what was seen has to reach far. The model's own covariance does that in the first
    steps, where there is much noise; later a projection is as good and half as dear. So with a gradient samples of what
    is `deep` listen to Pi-GDM up to EARLY, as far as it reaches, and else to what is taken without.

    Args:
        measurement: what was seen.
        steps: how many steps the sampler will take; the length of DPS's steps depends on it.
        latent: whether the model works on latents, through which no operator is linear.
        restore: whether one picture is restored (`samplers.annealed`) instead of sampled.
        gradient: whether samples of linear damage may take a gradient through the model.
    """
    measurement = rounding_as_noise(measurement)
    block, words = _without_gradient(measurement, steps, latent, restore)
    if not gradient or latent or restore or deep(measurement) < WIDE:
        return Choice((block,), words, NEXT.get(block.trust, "") if restore and isinstance(block, DiffPIR) else "")
    first = ReachingPiGDM(measurement, PHOTOS, timing=Timing(end=EARLY))
    words = f"Pi-GDM in the first half as far as it reaches, because much of the picture is gone, else {words}"
    return Choice((block, first), words, f"{block.label} without a gradient")


def _without_gradient(measurement: Measurement, steps: int, latent: bool, restore: bool) -> tuple[Guidance, str]:
    """A block, and why."""
    if latent and steps <= FEW and measurement.operator.linear:
        words = "DiffPIR, because these are few steps of a latent model and the damage is linear; no gradient"
        return DiffPIR(measurement, deviation=1.0), words
    if latent:
        return DPS(measurement, 1000 / steps), "DPS, because the model works on latents"
    if not measurement.operator.linear and _has_inverse(measurement):
        if restore and rounds(measurement.operator):
            words = "Pi-GDM without Jacobian, because the damage rounds; half of the way in each step"
            return PiGDM(measurement, jacobian=False, timing=HALF), words
        return PiGDMPublished(measurement), "Pi-GDM, because the damage is not linear but has a generalised inverse"
    if not measurement.operator.linear:
        # the norm in the recipe, made for 3 x 256 x 256, grows with the root of the size
        share = math.sqrt(math.prod(measurement.image_shape) / (3 * 256 * 256)) / steepness(measurement)
        # at high noise full steps lead to pictures of the other sign, which fit as well
        rising = Timing(schedule="rising")
        return DPS(measurement, share * 1000 / steps, timing=rising), "DPS, because the damage is not linear; rising"
    if measurement.resolved().noisy:
        trust = trust_for(measurement, restore)
        why = "there is noise" if measurement.noisy else "would enlarge the rounding of 8 bits, which counts as noise"
        words = f"DiffPIR, because the damage is linear and {why}; trust {trust:g}"
        return DiffPIR(measurement, trust, PHOTOS, smooth=True), words
    return DDNM(measurement, smooth=True), "DDNM, because the damage is linear and there is no noise"


def deep(measurement: Measurement) -> float:
    """The share of the picture that is further than an eighth of its shorter side from all that was measured.

    0 where the damage does not leave out pixels: a blur, a reduction, a transform see a little of everything.
    """
    if not (measurement.operator.linear and measurement.operator.local):
        return 0.0
    return seen_and_deep(measurement)[1].double().mean().item()


def trust_for(measurement: Measurement, restore: bool) -> float:
    """DiffPIR's trust, by the family of the damage: 0.25 for a restoration of what was blurred or reduced, else 1.

    A restoration puts no noise back, so that in directions with small singular values it drifts from the measurement
    to the prior when the prior counts fully; where every number is a pixel, or as strong as one, the measurement's
    noise would stay instead. Noise with blotches makes directions weak, and evens out those that a blur made weak: 0.25
    for blotches only, 0.5 for both (a blur and blotches of 1 pixel: 26.4 and 31.5 dB at 0.25 and 0.5, on two crops).
    Samples are best with 1 throughout, and so is what is clean but for its rounding.

    How chosen: seven crops of 80 x 80 of photographs that the embedded prior was trained on, 20 steps, noise 0.02 and
    more, trusts of 0.25, 0.5 and 1, each with a deviation of 0.5, by PSNR and fit; the figures are in
    web/docs/PosteriorAutoGuidance.md.
    """
    level = measurement.noise.level
    rounded = level is not None and level <= ROUNDING
    if not restore or rounded:
        return 1.0
    strong = _as_strong_as_pixels(measurement)
    if measurement.noise.correlated:
        return 0.25 if strong else 0.5
    return 1.0 if strong else 0.25


def steepness(measurement: Measurement, iterations: int = 10) -> float:
    """The largest singular value of dA/dx, at pictures of uniform noise, by power iterations; never below 0.1.

    The gradient of norm(r) is as long as that: steps made for masks, where it is 1, overshoot where it is more, such as
    with several coded masks, and may end at a picture with the other sign.
    """
    generator = torch.Generator(measurement.y.device).manual_seed(0)
    shape, like = (1, *measurement.image_shape), {"device": measurement.y.device, "dtype": torch.float32}
    x, v = torch.rand(shape, generator=generator, **like), torch.randn(shape, generator=generator, **like)
    y, pull_back = measurement.operator.linearise(x)
    length = 0.05 * v.numel() ** 0.5  # short for a derivative, long beside the steps of rounding
    for _ in range(iterations):
        v = length * v / v.norm().clamp_min(1e-12)
        v = pull_back(measurement.operator.forward(x + v) - y)
    return max(math.sqrt(v.norm().item() / length), 0.1)


def _as_strong_as_pixels(measurement: Measurement) -> bool:
    """Whether what is measured is pixels, however faded, or has singular values of a half or more: noise, masks,
    orthonormal transforms."""
    operator = measurement.operator
    return operator.local or weakest(operator, measurement.y) >= 0.5


def rounds(operator: Operator) -> bool:
    """Whether something in the damage rounds: JPEG, few colours, a palette."""
    parts = (operator.outer, operator.inner) if isinstance(operator, Composition) else ()
    return isinstance(operator, JPEG | Palette | Quantisation) or any(map(rounds, parts))


def _has_inverse(measurement: Measurement) -> bool:
    """Whether the operator, and every part of it, can be undone."""
    try:
        measurement.operator.pinv(measurement.y)
    except Refusal:
        return False
    return True
