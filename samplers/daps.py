"""Decoupled annealing posterior sampling, DAPS (Zhang et al. 2025), https://arxiv.org/abs/2407.01521.

At each level the picture is drawn given the measurement, and noise of the next level is put on it, all of it fresh:

    x0_hat = the probability-flow ODE from x_t down to 0, in few steps
    x_0 ~ p(y given x_0) N(x_0; x0_hat, r_t^2 I)              exactly, or by a chain: see `likelihood_chain`
    x_s = alpha_s x_0 + sigma_s z

with r_t = sigma_bar_t in the paper, which lets x_0 stray as far as the state's own noise; with a bound sqrt(c) on the
deviation of pictures r_t^2 = c sigma_bar_t^2 / (c + sigma_bar_t^2). For a white Gaussian prior of variance c, and one
step of the ODE (x0_hat = E[x_0|x_t]), the law of x_0 is then the posterior at every level. For other priors it is not:
r_t comes on top of what the ODE's end scatters by itself, so that samples scatter too much where little was measured.

The published code takes 100 Langevin steps for any A, of a fixed length that falls with the levels, and a noise tau
that is not sigma_y: 0.01 in [-1, 1] at sigma_y = 0.05. Here sigma_y is the measurement's own, and tau an option.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from ..diffusion.run import Run, unseen
from ..guidance.diffpir import error_precision
from ..measurement.noise import GaussianNoise
from .base import Sampler
from .dpm import DPMSolver
from .likelihood_chain import Chain, Likelihood


@dataclass(frozen=True)
class DAPS(Sampler):
    """`inner` model calls a level.

    Args:
        inner: steps of the ODE, >= 1.
        deviation: sqrt(c) in the model's unit; infinity is the paper's r_t.
        tau: noise to assume instead of the measurement's, image units (half of the published numbers); 0 for its own.
        chain: the likelihood's turn where it has no exact draw.
        exact: whether linear measurements are drawn exactly.
        solver: of the ODE.
        fall: what a step of the chain has come down to at the end, as a share of the first; published 0.01.
    """

    inner: int = 5
    deviation: float = 0.15
    tau: float = 0.0
    chain: Chain = Chain()
    exact: bool = True
    solver: Sampler = DPMSolver()
    fall: float = 1.0

    label = "DAPS"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        measurement = run.measurement
        if self.tau:
            measurement = replace(measurement, noise=GaussianNoise(self.tau))
        likelihood = Likelihood(measurement, self.chain, run.draw, self.exact)
        for i, t, s in run.walk:
            walk = run.schedule.ramp(t, self.inner)
            x0 = self.solver(replace(run, levels=walk, blocks=(), report=unseen), x)
            r = 1 / math.sqrt(error_precision(t, self.deviation))
            share = 1 - (1 - self.fall) * i / run.steps
            x0 = likelihood(x0, r, scale=t.scale, share=share)
            run.report(i, x, x0, t)
            x = s.alpha * x0 + (s.sigma * run.draw.normal(x) if s.sigma else 0.0)
        likelihood.note(run.record)
        return x
