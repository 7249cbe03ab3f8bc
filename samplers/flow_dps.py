"""FlowDPS (Kim, Kim and Ye 2025), https://arxiv.org/abs/2503.08136: the prediction is fitted through the decoder only.

With u = sigma / (alpha + sigma) the time of a flow model (`Level.flow_time`), and the predicted noise
eps_hat = (x_t - alpha_t x0_hat) / sigma_t, which is not made anew after the fit:

    x*        x0_hat moved down norm(y - A(D(x))) in a few steps
    x0(y)     = x0_hat + u_t (x* - x0_hat)                              blended, so that the correction fades
    x_s       = alpha_s x0(y) + sigma_s (sqrt(1 - c) eps_hat + sqrt(c) n)

The share c of fresh noise rises, c = 1 - u_s. TriPS-T (Bang et al. 2026, https://arxiv.org/abs/2605.26470) is the
same walk without the blending and with a falling share, c = (1 - E(i / (N - 1)))^2, E(v) = (e^(15 v) - 1) / (e^15 - 1),
which stays near 1 until the last steps. Its data steps fall too, from 300 to 100 or so; here each is as long as the
line search finds (`descent`), which falls with the residual. It also raises CFG, which early fights the fit, from 1 to
what it is set to (6 in the paper): 1 + (cfg - 1) log(1 + 6 v) / log 7, v = i / (N - 1), as for upscaling and blur.

`rate` has FlowDPS's steps as published, of fixed length: x -= rate grad norm(y - A(D(x))), which at the end of a run
that met y would still move by as much. The code lifts the residual by A^+, which for means of k x k pixels is k times
the norm, and has 15 for pictures in [-1, 1]: 30 k here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..diffusion.run import Run
from ..guidance.base import Guidance
from ..guidance.dps import norm_ascent
from .base import Sampler
from .descent import descend


@dataclass(frozen=True)
class FlowDPS(Sampler):
    """One model call a step, and `iterations` of the decoder with its derivative (and once more without).

    Args:
        iterations: of the fit, at most; it stops at the noise.
        fresh: how the share of fresh noise goes.
        blend: whether the fit fades with the noise.
        rate: length of a published step, image units; 0 searches along the line.
        rising: whether CFG rises to what it is set to, or is that throughout.
    """

    iterations: int = 3
    fresh: Literal["rising", "falling"] = "rising"
    blend: bool = True
    rate: float = 0.0
    rising: bool = False

    label = "FlowDPS"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        measurement = run.measurement
        for i, t, s in run.walk:
            progress = i / max(run.steps - 1, 1)
            prior = run.prompted(math.log1p(6 * progress) / math.log(7)) if self.rising else run.prior
            x0 = prior(x, t)
            eps = (x - t.alpha * x0) / t.sigma
            fitted = x0
            if self.rate:
                for _ in range(self.iterations):
                    fitted = fitted + self.rate * norm_ascent(Guidance(measurement), fitted)
            else:
                fitted = descend(measurement, x0, self.iterations)
            x0 = x0 + t.flow_time * (fitted - x0) if self.blend else fitted
            run.report(i, x, x0, t)
            share = self._share(progress, s.flow_time) if s.sigma else 0.0
            noise = math.sqrt(1 - share) * eps + (math.sqrt(share) * run.draw.normal(x) if share else 0.0)
            x = s.alpha * x0 + s.sigma * noise
        return x

    def _share(self, progress: float, time: float) -> float:
        """c of a step."""
        return 1 - time if self.fresh == "rising" else (1 - math.expm1(15 * progress) / math.expm1(15)) ** 2


#: TriPS-T, at the CFG that is set
TRIPS = FlowDPS(iterations=6, fresh="falling", blend=False)
