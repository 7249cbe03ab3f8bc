"""Guided DDIM (Song et al. 2021), https://arxiv.org/abs/2010.02502, for any alpha_t, sigma_t.

    x_s = alpha_s x0_hat(y) + sqrt(sigma_s^2 - v^2) (x_t - alpha_t x0_hat(y)) / sigma_t + v z,    0 <= v <= sigma_s

Three ways to say how much fresh noise v a step takes (`NoiseRule`):

    eta       v = eta sigma_s sqrt(1 - (alpha_t sigma_s)^2 / (alpha_s sigma_t)^2): 0 deterministic, 1 ancestral
    zeta      v = sqrt(zeta) sigma_s, DiffPIR's rule (https://arxiv.org/abs/2305.08995)
    varsigma  v itself, in the model's unit, cut at sigma_s

Time travel (RePaint, Lugmayr et al. 2022, https://arxiv.org/abs/2201.09865; DDNM, Wang et al. 2023) goes back up from s
to t by the forward process and takes the steps again, so that what was filled in and what was measured harmonise:

    x_t = (alpha_t / alpha_s) x_s + sqrt(sigma_t^2 - (alpha_t sigma_s / alpha_s)^2) z
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..diffusion.level import Level
from ..diffusion.run import Run
from ..diffusion.state import Step
from ..guidance.dsg import turned
from .base import Sampler

NoiseRule = Literal["eta", "zeta", "varsigma"]
NOISE_RULES = get_args(NoiseRule)


def fresh_noise(t: Level, s: Level, amount: float, rule: NoiseRule = "eta") -> float:
    """v of a step t to s, cut to [0, sigma_s]."""
    if rule == "zeta":
        v = math.sqrt(max(amount, 0.0)) * s.sigma
    elif rule == "varsigma":
        v = amount / s.scale
    else:
        ratio = t.alpha * s.sigma / (s.alpha * t.sigma)
        v = amount * s.sigma * math.sqrt(max(0.0, 1.0 - ratio**2))
    return min(max(v, 0.0), s.sigma)


def time_travel(steps: int, jump: int, repeats: int, start: float = 0.0, end: float = 1.0) -> list[int]:
    """The levels to visit, 0 to `steps`, when each stretch of `jump` steps is taken `repeats` times.

    Args:
        jump: steps in a stretch, >= 1.
        repeats: 1 is a plain path.
        start, end: shares of the sampling between which stretches that begin there are repeated.
    """
    path = [0]
    for first in range(0, steps, jump):
        stretch = list(range(first + 1, min(first + jump, steps) + 1))
        again = repeats if start <= first / steps < end else 1
        path += stretch + ([first] + stretch) * (again - 1)
    return path


def noised(x: Tensor, s: Level, t: Level, z: Tensor) -> Tensor:
    """The forward process from s up to t."""
    ratio = t.alpha / s.alpha
    return ratio * x + math.sqrt(max(t.sigma**2 - (ratio * s.sigma) ** 2, 0.0)) * z


@dataclass(frozen=True)
class GuidedDDIM(Sampler):
    """DDIM steps with a guided prior, in which blocks have a say.

    Args:
        amount: eta, zeta or varsigma, as `rule` says.
        rule: how much fresh noise a step takes.
        repeats: how often each stretch of time travel is taken; 1 is a plain path.
        jump: steps in a stretch, >= 1.
        start, end: shares of the sampling between which stretches that begin there are repeated.
    """

    amount: float = 0.0
    rule: NoiseRule = "eta"
    repeats: int = 1
    jump: int = 10
    start: float = 0.0
    end: float = 1.0

    label = "Guided DDIM"
    transitions = True

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        path = time_travel(run.steps, self.jump, self.repeats, self.start, self.end)
        for k, (i, j) in enumerate(zip(path[:-1], path[1:], strict=True)):
            t, s = run.levels[i], run.levels[j]
            if j < i:
                x = noised(x, t, s, run.draw.normal(x))
                continue
            x0, shift, ascent = run.guided(x, t, s, i)
            run.report(k * run.steps // (len(path) - 1), x, x0, t)
            eps = (x - t.alpha * x0) / t.sigma
            v = fresh_noise(t, s, self.amount, self.rule)
            z = turned(run.draw.normal(x), ascent) if v > 0 else torch.zeros_like(x)
            x = s.alpha * x0 + math.sqrt(s.sigma**2 - v**2) * eps + v * z + s.vp_norm * shift
            x = run.transit(x, Step(t, s, x0, eps, v, z, run.draw.normal, i / run.steps, i))
        return x
