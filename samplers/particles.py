"""Particle filters along the noise levels: sequential Monte Carlo (Del Moral et al. 2006,
https://doi.org/10.1111/j.1467-9868.2006.00553.x; twisted: Wu et al. 2023, https://arxiv.org/abs/2306.17775).

The model's own steps make a prior of trajectories, x_s ~ N(m(x_t), v^2 I) with

    m(x_t) = k x_t + g x0_hat,    k = sqrt(sigma_s^2 - v^2) / sigma_t,    g = alpha_s - k alpha_t     (DDIM)

A method (a `Twist`) foresees the measurement by any positive function psi_t(x_t) and proposes steps q(x_s|x_t) that
turn towards it. N particles with the weights

    w <- w psi_t(x_t) ratio,    ratio = p(x_s|x_t) / (q(x_s|x_t) psi_t(x_t)),    last  w <- w p(y given x_0) ratio

then have, as N grows, exactly the posterior of the model's steps whatever psi and q are; these say how many it takes.
Where the effective number (sum w)^2 / sum w^2 falls below a share of N the particles are drawn anew by systematic
resampling. The product of the mean weights is an unbiased estimate of p(y).

What N cannot mend is the error of few large steps: `split` cuts each in parts, and `settle` takes Langevin steps at the
first level, x += r (alpha x0_hat - x) + sqrt(2 r) sigma z, where the start N(0, sigma^2 I) is not what the model has.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..algebra.streams import Streams
from ..diffusion.level import Level
from ..diffusion.run import Run
from ..measurement.measurement import Measurement
from ..measurement.noise import ROUNDING, GaussianNoise
from .base import Sampler
from .ddim import fresh_noise

#: relative size of the Langevin steps at the first level
SETTLING = 0.3


class Kernel(NamedTuple):
    """The model's step x_s ~ N(stay x_t + gain x0_hat, v^2 I); `number` counts steps, `index` the run's levels."""

    number: int
    index: int
    t: Level
    s: Level
    stay: float
    gain: float
    v: float


class Look(NamedTuple):
    """What is known of particles at x_t: x0_hat, log psi_t (`B`), and what the proposal's mean adds to the model's."""

    x0: Tensor
    potential: Tensor
    pull: Tensor


class Twist(ABC):
    """How a method listens, for one run.

    Args:
        measurement: what is listened to; clean ones count as rounded, noise with neighbours is whitened.
    """

    #: whether the weights estimate p(y)
    proper: ClassVar[bool] = True

    def __init__(self, measurement: Measurement):
        measurement = measurement.whitened() if measurement.noise.correlated else measurement
        self.measurement = measurement if measurement.noisy else replace(measurement, noise=GaussianNoise(ROUNDING))

    @abstractmethod
    def look(self, run: Run, x: Tensor, kernel: Kernel, index: Tensor, draw: Streams) -> Look:
        """By one call of the prior. x: particles, index: the sample of each, draw: the streams of these samples."""

    def move(self, mean: Tensor, look: Look, z: Tensor, kernel: Kernel, index: Tensor) -> tuple[Tensor, Tensor]:
        """x_s and the log ratio of the next weight; by default of q = N(mean + pull, v^2 I)."""
        if kernel.v == 0:
            return mean, -look.potential
        energy = inner(look.pull, look.pull + 2 * kernel.v * z) / (2 * kernel.v**2)
        return mean + look.pull + kernel.v * z, -energy - look.potential

    def last(self, x: Tensor, ratio: Tensor, index: Tensor) -> Tensor:
        """The log of the last weight, for x_0."""
        measurement = self.measurement.take(index)
        y, residual = measurement.y, measurement.residual(x)
        deviation = torch.as_tensor(measurement.noise.deviation(y)).to(y).expand(y.shape)
        support = measurement.operator.support(y)
        constant = (2 * math.pi * deviation**2).log() * (1 if support is None else support)
        return ratio + measurement.noise.log_likelihood(residual, y) - constant.flatten(1).sum(1) / 2


@dataclass(frozen=True)
class ParticleSampler(Sampler):
    """The engine; a subclass says how it listens.

    Args:
        count: N, particles for each sample, >= 1.
        threshold: share of N in [0, 1] below which the effective number of particles calls for resampling; 1 is each
            step.
        eta: fresh noise of the model's steps, in (0, 1]; 1 is ancestral sampling.
        split: parts of each step, >= 1: so many times the model calls.
        settle: Langevin steps at the first level, >= 0.
        batch: pictures in one model call; halved where memory is short.
    """

    count: int = 16
    threshold: float = 0.5
    eta: float = 1.0
    split: int = 1
    settle: int = 0
    batch: int = 16

    @abstractmethod
    def twist(self, run: Run, x: Tensor, walk: list[Kernel]) -> Twist:
        """How it listens in this run. x: the start, `B C H W`."""

    def kernel(self, t: Level, s: Level) -> tuple[float, float, float]:
        """stay, gain and v of the model's step."""
        v = fresh_noise(t, s, self.eta)
        stay = math.sqrt(s.sigma**2 - v**2) / t.sigma
        return stay, s.alpha - stay * t.alpha, v

    def walk(self, run: Run) -> Iterator[Kernel]:
        first = run.levels[0]
        settling = (1 - SETTLING, SETTLING * first.alpha, math.sqrt(2 * SETTLING) * first.sigma)
        steps = [(0, first, first, settling)] * self.settle
        for i, t, s in run.walk:
            levels = run.schedule.between(t, s, self.split)
            steps += [(i, a, b, self.kernel(a, b)) for a, b in zip(levels[:-1], levels[1:], strict=True)]
        for number, (i, a, b, kernel) in enumerate(steps):
            yield Kernel(number, i, a, b, *kernel)

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        samples, n, walk = len(x), self.count, list(self.walk(run))
        index = torch.arange(samples).repeat_interleave(n)
        twist, given = self.twist(run, x, walk), x
        x = run.levels[0].sigma * run.draw.of("particles").normal(given.repeat_interleave(n, 0))
        x[::n] = given
        log_weights, evidence = torch.zeros(samples, n, dtype=torch.float64), torch.zeros(samples, dtype=torch.float64)
        ratio, effective = x.new_zeros(len(x)), []
        for kernel in walk:
            look = self._look(run, x, kernel, twist, index)
            log_weights = log_weights + (ratio + look.potential).double().cpu().view(samples, n)
            if kernel.s is not kernel.t:
                heaviest = (log_weights.argmax(1) + torch.arange(samples) * n).to(x.device)
                run.report(kernel.index, x[heaviest], look.x0[heaviest], kernel.t)
            numbers = effective_number(log_weights)
            effective.append(numbers.mean())
            poor = numbers < self.threshold * n
            drawn = systematic(log_weights, run.draw.of("resampling").uniform())
            ancestors = torch.where(poor[:, None], drawn, torch.arange(n))
            evidence = evidence + torch.where(poor, log_mean(log_weights), 0.0)
            log_weights = torch.where(poor[:, None], 0.0, log_weights)
            rows = (ancestors + n * torch.arange(samples)[:, None]).flatten().to(x.device)
            x, look = x[rows], Look(*(part[rows] for part in look))
            mean = kernel.stay * x + kernel.gain * look.x0
            x, ratio = twist.move(mean, look, run.draw.normal(x), kernel, index)
        if run.levels[-1].sigma == 0:
            log_weights = log_weights + twist.last(x, ratio, index).double().cpu().view(samples, n)
            evidence = evidence + log_mean(log_weights)
        if run.levels[-1].sigma == 0 and twist.proper:
            evidence = evidence + torch.as_tensor(twist.measurement.volume).double().cpu()
            run.record["log-evidence of each"] = evidence
            one = len(twist.measurement.y) == 1  # independent estimates of one number
            run.record["log-evidence"] = (log_mean(evidence[None]) if one else evidence.mean()).item()
        run.record["effective sample size"] = torch.stack([*effective, effective_number(log_weights).mean()]).tolist()
        chosen = systematic(log_weights, run.draw.of("resampling").uniform(), 1)[:, 0]
        return x[(chosen + n * torch.arange(samples)).to(x.device)]

    def _look(self, run: Run, x: Tensor, kernel: Kernel, twist: Twist, index: Tensor) -> Look:
        """Of all particles, in as many model calls as it takes."""

        def look(rows: slice) -> Look:
            some = index[rows]
            return twist.look(run, x[rows], kernel, some, run.draw.take(some.unique().tolist()))

        return Look(*(torch.cat(parts) for parts in zip(*in_chunks(look, self.count, len(x), self.batch), strict=True)))


def in_chunks(call: Callable[[slice], Look], particles: int, rows: int, size: int) -> list[Look]:
    """What `call` gives for rows in chunks of at most `size`: whole samples, or parts of one."""
    stride = max(size // particles, 1) * particles
    while True:
        bounds = [range(a, min(a + stride, rows), min(stride, size)) for a in range(0, rows, stride)]
        slices = [slice(b, min(b + size, part.start + stride, rows)) for part in bounds for b in part]
        try:
            return [call(each) for each in slices]
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
        size = (size + 1) // 2
        stride = max(size // particles, 1) * particles
        torch.cuda.empty_cache()


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each row, `B`."""
    return (a * b).flatten(1).sum(1)


def log_mean(log_weights: Tensor) -> Tensor:
    """log mean w of each row."""
    return log_weights.logsumexp(1) - math.log(log_weights.shape[1])


def effective_number(log_weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of each row."""
    return 1 / log_weights.softmax(1).square().sum(1)


def systematic(log_weights: Tensor, u: Tensor, count: int | None = None) -> Tensor:
    """Systematic resampling of each row, `B count`: particle i is drawn floor or ceil of count w_i / sum w times.

    Args:
        u: uniform in [0, 1), one for each row, `B 1`.
    """
    count = count or log_weights.shape[1]
    edges = log_weights.softmax(1).cumsum(1)
    places = (torch.arange(count) + u) / count
    return torch.searchsorted(edges[:, :-1] / edges[:, -1:], places, right=True)
