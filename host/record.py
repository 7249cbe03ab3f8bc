"""A record of how a guided run converged: one row for each model call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..diffusion.level import Level
from ..diffusion.state import Estimate
from ..guidance.base import Guidance
from .steps import first_order

_CLEAN = Level(1.0, 0.0)


@dataclass
class Row:
    """One step.

    Args:
        sigma: the noise level, model unit.
        misfit: for each measurement, RMS of the residual of x0_hat(y) over sigma_y, or in image units where sigma_y is
            0; averaged over the batch.
        change: RMS of what guidance has done to x0_hat, in the measurement's coordinates. A shift of the state counts
            as the change of x0_hat that moves a deterministic first-order step by it.
    """

    sigma: float
    misfit: list[float]
    change: float


@dataclass
class RunRecord:
    """The last run of the guides that carry it.

    Args:
        record: what the sampler itself has noted, `diffusion.run.Run.record`: curves as lists of numbers, and numbers.
    """

    rows: list[Row] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    noisy: list[bool] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    def begin(self, blocks: Sequence[Guidance]) -> None:
        """Forgets the run before."""
        self.rows.clear()
        self.record.clear()
        self.labels, self.noisy = [block.label for block in blocks], [block.measurement.noisy for block in blocks]

    @torch.no_grad()
    def note(self, blocks: Sequence[Guidance], x0: Tensor, estimate: Estimate, t: Level, s: Level | None) -> None:
        """x0: x0_hat without guidance, at t in a step to s."""
        after = estimate.x0 + estimate.shift * ((s or _CLEAN).vp_norm / first_order(t, s or _CLEAN))
        misfit = [block.measurement.agreement(after).mean().item() for block in blocks]
        self.rows.append(Row(t.sigma * t.scale, misfit, (after - x0).square().mean().sqrt().item()))
