"""Noise schedules: one object gives alpha and sigma for every model family.

The forward process is x_t = alpha_t x_0 + sigma_t z. A host's SIGMAS are the schedule's time axis:

    exploding  alpha = 1            EPS, V-prediction, EDM models, zero-terminal-SNR included
    flow       alpha = 1 - sigma    rectified flow (SD3, Flux ...)

A variance-preserving model is an exploding one seen through x_t / sqrt(1 + sigma^2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..guidance.state import Level


@dataclass(frozen=True)
class Schedule:
    """alpha and sigma of one model family."""

    family: Literal["exploding", "flow"] = "exploding"

    def level(self, sigma: float) -> Level:
        """(alpha, sigma) at a value of the host's SIGMAS; sigma >= 0, and <= 1 for flow models."""
        return Level(1.0 - sigma if self.family == "flow" else 1.0, float(sigma))
