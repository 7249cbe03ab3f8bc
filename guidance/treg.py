"""Regularisation by text, TReg (Kim et al. 2025), https://arxiv.org/abs/2311.15658: the data step on latents.

The prompt is the regulariser: what the model predicts with it (CFG about 5) is decoded, made to agree with the
measurement, encoded, and blended with the prediction, less of it the noisier the state. Every n-th step, after the
first 0.15 of the sampling, with abar_s = alpha_s^2 / (alpha_s^2 + sigma_s^2),

    z_y = E(argmin_x norm(A x - y)^2 + lambda norm(x - D(x0_hat))^2)
    z   = abar_s z_y + (1 - abar_s) x0_hat
    x_s = alpha_s z + sigma_s (sqrt(1 - abar_s) eps_hat + sqrt(abar_s) n)

and the sampler's own step, DDIM with eta = 0, in between. The paper's "adaptive negation", which trains the negative
prompt by a CLIP image encoder on the way, is left out: conditioning is fixed while a host samples. DreamSampler (Kim,
Park and Ye 2024, https://arxiv.org/abs/2403.11415) has the same step at every step, with a prediction of its
own for either prompt, of which a sampler gets the sum that CFG makes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..algebra.refusal import Refusal
from ..diffusion.state import Step
from ..measurement.decoded import Decoded
from ..operators.compose import compose
from ..operators.diagonal import Weight
from .base import Guidance
from .dps import precision

#: share of the sampling that is left alone: the paper's timesteps above 850 of 1000
ALONE = 0.15


@dataclass(frozen=True)
class TReg(Guidance):
    """The data step of TReg, for latent models, linear damage and samplers that own their trajectory.

    Args:
        every: n; the paper's is 3 with 200 steps.
        trust: lambda, > 0, how much the decoded prediction weighs against the measurement; the paper's is 1e-4.
    """

    every: int = 3
    trust: float = 1e-4

    label = "TReg"
    owns_transition = True
    latent = "only"

    def validate(self) -> None:
        super().validate()
        operator = self.measurement.operator
        pictures = operator.operator if isinstance(operator, Decoded) else operator
        if not pictures.linear:
            raise Refusal(f"TReg needs a linear operator, and {pictures.label} is not; choose ReSample instead.")

    def transition(self, x_s: Tensor, step: Step) -> Tensor:
        if step.index % self.every or step.progress < ALONE:
            return x_s
        s, share = step.s, (step.s.alpha / step.s.vp_norm) ** 2
        z = step.x0 + share * (self._met(step.x0) - step.x0)
        noise = math.sqrt(1 - share) * step.eps
        if s.sigma:
            noise = noise + math.sqrt(share) * step.draw(x_s)
        return s.alpha * z + s.sigma * noise

    def _met(self, z: Tensor) -> Tensor:
        """z_y."""
        codec, operator, y = self.measurement.operator.codec, self.measurement.operator.operator, self.measurement.y
        weight = precision(self.measurement)
        if isinstance(weight, Tensor):
            operator, y = compose(Weight(weight), operator), weight * y
        return codec.encode(operator.prox(codec.decode(z), y, self.trust))
