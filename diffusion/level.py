"""One noise level of the forward process."""

from __future__ import annotations

import math
from typing import NamedTuple


class Level(NamedTuple):
    """A noise level of the forward process x_t = alpha x_0 + sigma z.

    Args:
        alpha, sigma: in the unit of x_t as the method sees it.
        scale: how many of the model's units are one of these (2 for a [-1, 1] model seen as [0, 1]).
    """

    alpha: float
    sigma: float
    scale: float = 1.0

    @property
    def vp_norm(self) -> float:
        """sqrt(alpha^2 + sigma^2) in the model's unit: x_t / vp_norm is variance preserving."""
        return math.hypot(self.alpha, self.scale * self.sigma)

    @property
    def sigma_bar(self) -> float:
        """sigma / alpha, the noise of x_t / alpha; finite where alpha is 0."""
        return self.sigma / max(self.alpha, 1e-6)

    @property
    def flow_time(self) -> float:
        """sigma / (alpha + sigma) in the model's unit: 1 for pure noise, 0 for pictures; a flow model's own sigma."""
        noise = self.scale * self.sigma
        return noise / (self.alpha + noise)

    @property
    def inverse_alpha(self) -> float:
        """1 / alpha, and 0 for states without a picture, which say nothing about x_0 (the start of a flow model)."""
        return 1 / self.alpha if self.alpha >= 1e-4 else 0.0
