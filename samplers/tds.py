"""Twisted diffusion sampler, TDS (Wu et al. 2023), https://arxiv.org/abs/2306.17775.

Any guidance makes the proposals and weights make up for what is wrong with it. With x0_hat(y) of the blocks,

    q(x_s|x_t) = N(m(x_t) + g (x0_hat(y) - x0_hat), v^2 I),    the last step as the model makes it
    psi_t(x_t) = N(y; A x0_hat, sigma_y^2 I + r_t^2 A A^T)

so that one particle is the guided sampler and many are the posterior of the model's steps (`particles`). The paper has
the gradient of log psi_t as its guidance, which is Pi-GDM for A = I, resamples in each step, and takes r_t^2 =
sigma_t^2 / (alpha_t^2 + sigma_t^2) or sigma_t^2 / alpha_t^2; ours, of a white prior of variance c, is both. psi should
rather be too wide than too narrow: one that decides too early what y is loses particles that turn out to be right.
For operators that are not linear A A^T counts as I.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.streams import Streams
from ..diffusion.run import Run, combined
from ..diffusion.state import State, predict
from ..measurement.measurement import Measurement
from .particles import Kernel, Look, ParticleSampler, Twist, inner


@dataclass(frozen=True)
class TDS(ParticleSampler):
    """Listens to any number of guidance blocks.

    Args:
        deviation: sqrt(c), standard deviation of the pictures in the model's unit, > 0.
    """

    deviation: float = 1.0

    label = "TDS"

    def twist(self, run: Run, x: Tensor, walk: list[Kernel]) -> Twist:
        return _Guided(run.measurement, self.deviation)


class _Guided(Twist):
    def __init__(self, measurement: Measurement, deviation: float):
        super().__init__(measurement)
        self.white = self.measurement.whitened() if self.measurement.operator.linear else self.measurement
        self.deviation = deviation

    def look(self, run: Run, x: Tensor, kernel: Kernel, index: Tensor, draw: Streams) -> Look:
        progress = kernel.index / max(run.steps, 1)
        listening = [block.take(index) for block in run.blocks if block.timing.weight(progress, kernel.index)]
        listening = listening if kernel.s.sigma else []
        jacobian = any(block.jacobian for block in listening)
        state = predict(
            run.prior, x, kernel.t, jacobian, s=kernel.s, progress=progress, index=kernel.index, draw=draw
        )  # fmt: skip
        estimate = combined(listening, state, once=True)
        pull = kernel.gain * (estimate.x0 - state.x0) + kernel.s.vp_norm * estimate.shift
        return Look(state.x0, self.foreseen(state, index), pull)

    def foreseen(self, state: State, index: Tensor) -> Tensor:
        """log psi_t up to a constant, per particle."""
        measurement = self.white.take(index)
        residual, variance = measurement.residual(state.x0), state.white_variance(self.deviation)
        noise = torch.as_tensor(measurement.noise.deviation(measurement.y)) ** 2
        if not measurement.operator.linear:
            return -inner(residual, residual / (noise + variance)) / 2
        return -inner(residual, measurement.operator.solve(residual, float(noise) / variance)) / (2 * variance)
