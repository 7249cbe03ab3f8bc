"""Few steps of a few-step model, CM4IR (Garber and Tirer 2025), https://arxiv.org/abs/2412.20596.

It starts from the noised pseudo-inverse instead of pure noise, and mirrors the noise that the model predicts: what a
consistency model leaves in x0_hat is pushed the other way. With u = x_t / alpha_t and b = sigma_t / alpha_t, and b'
that of the next level,

    u    = A^T (A A^T + zeta sigma_y^2)^-1 y + b n
    z    = (x0_hat - u) / b                                     minus the predicted noise
    u'   = x0_hat - A^T (A A^T + zeta sigma_y^2)^-1 (A x0_hat - y) + b' (eta n + sqrt(1 - eta^2) z)

where the model may be told the level (1 + delta) b. In the last step there is no noise, and where y is noisy no
correction. Holes start as what continues their rim; the published code fills them with medians. Its levels are few (4)
and begin low: b from 0.3 to 0.9 in the unit of [-1, 1] pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from ..diffusion.run import Run
from ..diffusion.state import State
from ..guidance.ddpg import DDPG
from ..guidance.latent import decoded
from ..measurement.decoded import Decoded
from ..measurement.smooth import kriged
from .base import Sampler


@dataclass(frozen=True)
class CM4IR(Sampler):
    """A model call at each level; for linear measurements, in pixels or through a VAE.

    Args:
        eta: share of fresh noise, 0 to 1; the paper's is 0.1.
        zeta: regularisation of the inverse, in units of the noise's variance, >= 0; the paper's 0 to 4.
        delta: how much more noise the model is told than there is, > -1; the paper's 0 to 1, another at each level.
    """

    eta: float = 0.1
    zeta: float = 1.0
    delta: float = 0.0

    label = "CM4IR"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        measurement = run.measurement
        codec = measurement.operator.codec if isinstance(measurement.operator, Decoded) else None
        pictures = replace(measurement, operator=measurement.operator.operator) if codec else measurement
        inverse = DDPG(pictures, gamma=math.inf, eta=self.zeta)  # never turns into least squares
        step = decoded(inverse, codec) if codec else inverse
        grey = x.new_full((len(x), *pictures.image_shape), 0.5)
        first = run.levels[0]
        correction = inverse.estimate(State(grey, first, grey), grey).x0 - grey
        u = grey + kriged(pictures.operator, correction, grey, first.sigma_bar)
        u = codec.encode(u) if codec else u
        u = u + first.sigma_bar * run.draw.normal(u)
        for i, t, s in run.walk:
            told = run.schedule.at((1 + self.delta) * t.sigma_bar, t.scale)
            x0 = run.prior(told.alpha * u, told)
            run.report(i, t.alpha * u, x0, t)
            mirrored = (x0 - u) / t.sigma_bar
            u = x0
            if s.sigma or not inverse.measurement.noisy:
                u = step.estimate(State(t.alpha * u, t, x0), x0).x0
            if s.sigma:
                fresh = self.eta * run.draw.normal(u)
                u = u + s.sigma_bar * (fresh + math.sqrt(1 - self.eta**2) * mirrored)
        return s.alpha * u
