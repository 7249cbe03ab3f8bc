"""Sampling by the noise that is there (Kadkhodaie and Simoncelli 2021), https://arxiv.org/abs/2007.13640.

No schedule: how noisy the state is gets measured at each step, on the distance to the guided prediction, and a share
of it is taken off. For states x of exploding noise,

    d       = x - x0_hat(y)            for DDNM's x0_hat(y):  (I - A^+ A)(x - x0_hat) + A^+ (A x - y), as in the paper
    sigma   = norm(d) / sqrt(dim)      at which the model is asked next
    h       = h_0 k / (1 + h_0 (k - 1))
    x      <- x - h d + gamma n,    gamma = sigma sqrt((1 - beta h)^2 - (1 - h)^2)

until sigma is down to the last level. With beta = 1 nothing is drawn and the answer is near a mode, with less it is a
sample. The paper's network is blind; one that wants a level is told the measured one. Any guidance block that works on
the prediction will do in the place of DDNM. Every sample has its own noise, so samples go one after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..algebra.norms import sample_norm
from ..algebra.streams import Streams
from ..diffusion.run import Run
from .base import Sampler


@dataclass(frozen=True)
class MeasuredNoise(Sampler):
    """Steps until the noise is gone; the run's levels say where it starts and where it ends.

    Args:
        step: h_0, in (0, 1]; the paper's is 0.01.
        beta: in (0, 1]: 1 draws no noise; the paper's is 0.01 for samples.
        limit: at most so many model calls for a sample.
    """

    step: float = 0.05
    beta: float = 0.1
    limit: int = 500

    label = "Measured noise (Kadkhodaie-Simoncelli)"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        return torch.cat([self._sample(_only(run, i), x[i : i + 1], i / len(x), 1 / len(x)) for i in range(len(x))])

    def _sample(self, run: Run, x: Tensor, done: float, share: float) -> Tensor:
        """done, share: of the whole run, what came before and what this sample is."""
        first, end, furthest = run.levels[0], run.levels[-2].sigma_bar, 0.0
        noise = run.record.setdefault("measured noise", [])
        x, t = x / max(first.alpha, 1e-6), first
        for k in range(1, self.limit + 1):
            h = self.step * k / (1 + self.step * (k - 1))
            # the step leads to this level: methods that keep y's noise below it would hear nothing at the last one
            s = run.schedule.at(t.sigma_bar * (1 - self.beta * h), first.scale)
            x0 = run.guided(t.alpha * x, t, s, min(k * run.steps // self.limit, run.steps - 1)).x0
            d = x - x0
            sigma = (sample_norm(d) / d[0].numel() ** 0.5).item()
            noise.append(sigma)
            t = run.schedule.at(min(sigma, first.sigma_bar), first.scale)
            part = math.log(first.sigma_bar / max(sigma, end)) / math.log(first.sigma_bar / end)
            furthest = max(furthest, min(part, 1.0))
            run.report(min(int((done + share * furthest) * run.steps), run.steps - 1), t.alpha * x, x0, t)
            if sigma <= end:
                break
            gamma = sigma * math.sqrt(max((1 - self.beta * h) ** 2 - (1 - h) ** 2, 0.0))
            x = x - h * d + gamma * run.draw.normal(x)
        last = run.levels[-1]
        return last.alpha * x0 + last.sigma * run.draw.normal(x0)


def _only(run: Run, i: int) -> Run:
    """The run of one sample."""
    draw = Streams(run.draw.seed, run.draw.purpose, run.draw.samples[i : i + 1])
    return replace(run, blocks=[block.take(torch.tensor([i])) for block in run.blocks], draw=draw)
