"""Noise schedules: one object gives alpha and sigma for every model family, and the SDE's f and g on a time axis.

The forward process is x_t = alpha_t x_0 + sigma_t z. A host's SIGMAS are the schedule's time axis:

    exploding  alpha = 1            EPS, V-prediction, EDM models, zero-terminal-SNR included
    flow       alpha = 1 - sigma    rectified flow (SD3, Flux ...)

A variance-preserving model is an exploding one seen through x_t / sqrt(1 + sigma^2). As an SDE (Song et al. 2021,
https://arxiv.org/abs/2011.13456) dx = f x dt + g dW with

    f = alpha' / alpha,    g^2 = (sigma^2)' - 2 f sigma^2.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from .level import Level


@dataclass(frozen=True)
class Schedule:
    """alpha and sigma of one model family."""

    family: Literal["exploding", "flow"] = "exploding"

    def level(self, sigma: float) -> Level:
        """(alpha, sigma) at a value of the host's SIGMAS; sigma >= 0, and <= 1 for flow models."""
        return Level(1.0 - sigma if self.family == "flow" else 1.0, float(sigma))

    def at(self, sigma_bar: float, scale: float = 1.0) -> Level:
        """The level where sigma / alpha is sigma_bar, in units of which each is `scale` of the model's."""
        ratio = scale * sigma_bar
        level = self.level(ratio / (1 + ratio) if self.family == "flow" else ratio)
        return Level(level.alpha, level.sigma / scale, scale)

    def ramp(self, t: Level, steps: int, low: float = 0.02, bend: float = 7.0) -> list[Level]:
        """`steps` levels from t on, and the final 0: a walk of its own within a run.

        Exploding models take Karras' spacing (equal steps in sigma^(1 / bend)) down to `low`, in the model's unit, or
        to a tenth of t; flow models take equal steps in sigma.
        """
        sigma = t.scale * t.sigma
        if self.family == "flow":
            sigmas = [sigma * (1 - i / steps) for i in range(steps)]
        else:
            high, end = sigma ** (1 / bend), min(low, sigma / 10) ** (1 / bend)
            sigmas = [(high + (end - high) * i / max(steps - 1, 1)) ** bend for i in range(steps)]
        levels = [self.level(value) for value in (*sigmas, 0.0)]
        return [t, *(Level(level.alpha, level.sigma / t.scale, t.scale) for level in levels[1:])]

    def between(self, t: Level, s: Level, parts: int) -> list[Level]:
        """t, s and the levels that cut the way between them into `parts`: equal steps in the logarithm of
        sigma / alpha, or in sigma for flow models. A step to sigma = 0 stays whole.
        """
        if s.sigma == 0 or parts == 1:
            return [t, s]
        shares = [i / parts for i in range(1, parts)]
        if self.family == "flow":
            inner = [self.level(t.scale * (t.sigma + share * (s.sigma - t.sigma))) for share in shares]
            return [t, *(Level(level.alpha, level.sigma / t.scale, t.scale) for level in inner), s]
        ratios = [t.sigma_bar * (s.sigma_bar / t.sigma_bar) ** share for share in shares]
        return [t, *(self.at(ratio, t.scale) for ratio in ratios), s]


class Axis(ABC):
    """A time axis t of the forward SDE; sigma in the model's unit."""

    @abstractmethod
    def alpha(self, t: float) -> float:
        """alpha_t."""

    @abstractmethod
    def sigma(self, t: float) -> float:
        """sigma_t."""

    @abstractmethod
    def f(self, t: float) -> float:
        """alpha' / alpha."""

    @abstractmethod
    def g2(self, t: float) -> float:
        """g^2 = (sigma^2)' - 2 f sigma^2."""

    @abstractmethod
    def time(self, ratio: float) -> float:
        """The t where sigma_t / alpha_t is `ratio` >= 0."""


class VarianceExploding(Axis):
    """alpha = 1, sigma = t: f = 0, g^2 = 2 t."""

    def alpha(self, t: float) -> float:
        return 1.0

    def sigma(self, t: float) -> float:
        return t

    def f(self, t: float) -> float:
        return 0.0

    def g2(self, t: float) -> float:
        return 2 * t

    def time(self, ratio: float) -> float:
        return ratio


@dataclass(frozen=True)
class VariancePreserving(Axis):
    """beta(t) = beta_min + t (beta_max - beta_min) on [0, 1], B its integral from 0: alpha = e^(-B/2),
    sigma^2 = 1 - e^-B, f = -beta / 2, g^2 = beta. The defaults are those of DDPM in continuous time.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def beta(self, t: float) -> float:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: float) -> float:
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2

    def alpha(self, t: float) -> float:
        return math.exp(-0.5 * self.integral(t))

    def sigma(self, t: float) -> float:
        return math.sqrt(-math.expm1(-self.integral(t)))

    def f(self, t: float) -> float:
        return -0.5 * self.beta(t)

    def g2(self, t: float) -> float:
        return self.beta(t)

    def time(self, ratio: float) -> float:
        # ratio^2 = e^B - 1; the root of the quadratic B(t), written so that nothing cancels
        integral = math.log1p(ratio**2)
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + math.sqrt(self.beta_min**2 + 2 * slope * integral))


class Flow(Axis):
    """alpha = 1 - t, sigma = t on [0, 1): f = -1 / (1 - t), g^2 = 2 t / (1 - t)."""

    def alpha(self, t: float) -> float:
        return 1.0 - t

    def sigma(self, t: float) -> float:
        return t

    def f(self, t: float) -> float:
        return -1.0 / (1.0 - t)

    def g2(self, t: float) -> float:
        return 2 * t / (1.0 - t)

    def time(self, ratio: float) -> float:
        return ratio / (1.0 + ratio)


#: the time axes of the SDE samplers, by name
AXES: dict[str, Axis] = {"VE": VarianceExploding(), "VP": VariancePreserving(), "flow": Flow()}
