"""Inversion in the space of noise: the picture is x = R(z), the end of a short deterministic walk from z ~ N(0, I).

    min over z of    norm(W (y - A(R(z))))^2 / (2 sigma_y^2) + prior norm(z)^2 / 2,    on the shell where asked

(compressed sensing with generative models, Bora et al. 2017, https://arxiv.org/abs/1703.03208.) R is DDIM with eta = 0
along the run's levels. The published ones are settings of it:

    DMPlug, https://arxiv.org/abs/2405.16749            3 levels, rate 0.01, prior 0
    SHRED, https://arxiv.org/abs/2405.19572             10 levels, prior 0
    Consistent-CSGM, https://arxiv.org/abs/2403.12063   1 level, few-step models
    D-Flow, https://arxiv.org/abs/2402.14017            6 levels of a flow model, prior 0.001 to 0.01
    FMPlug, https://arxiv.org/abs/2511.16520            shell 0.01: norm(z) within 1 +- 0.01 of sqrt(dim)

They follow Adam; D-Flow's L-BFGS searches along lines that all samples of a batch would share. The walk's few states
are kept, and the gradient is swept back through one step at a time, so that one graph is in memory:

    x_s = c x_t + d x0_hat(x_t),    v_t = c v_s + d J^T v_s,    c = sigma_s / sigma_t,  d = alpha_s - alpha_t c

A sample stops where its residual is down to the noise (Morozov's discrepancy principle); the published scripts keep the
iterate that is nearest to the truth, which nobody has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..algebra.norms import sample_norm
from ..diffusion.run import Run
from ..guidance.dps import precision
from ..measurement.noise import ROUNDING
from .base import Sampler


@dataclass(frozen=True)
class NoiseSpace(Sampler):
    """Adam on the starting noise; an iteration costs 2 F + B for each level.

    Args:
        iterations: at most so many steps of Adam.
        rate: its rate, in units of z.
        prior: weight of norm(z)^2 / 2; 1 is the posterior's own (a MAP estimate of z), 0 has none.
        shell: how far norm(z) may leave sqrt(dim), as a share of it; 0 for anywhere.
        stop: residual at which a sample is done, in units of the noise; 0 goes on to the end.
    """

    iterations: int = 200
    rate: float = 0.02
    prior: float = 0.0
    shell: float = 0.0
    stop: float = 1.0

    label = "Noise-space inversion"
    jacobian = True

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        measurement, first = run.measurement, run.levels[0]
        deviation = torch.as_tensor(measurement.noise.deviation(measurement.y)).clamp_min(ROUNDING)
        weight, level = precision(measurement), deviation.square().mean().sqrt().to(x)
        residuals = run.record.setdefault("residual / noise", [])
        with torch.inference_mode(False), torch.no_grad():
            z = (x / first.sigma).clone()
            done = torch.zeros(len(z), dtype=torch.bool, device=z.device)
            adam = torch.optim.Adam([z], lr=self.rate)
            for k in range(self.iterations):
                states, x0 = self._walk(run, first.sigma * z)
                y, pull_back = measurement.operator.linearise(x0)
                residual = weight * (y - measurement.y)
                fit = residual.flatten(1).square().mean(1).sqrt() / level
                done |= fit <= self.stop
                residuals.append(fit.max().item())
                run.report(k * run.steps // self.iterations, states[-1], x0, run.levels[-2])
                if done.all():
                    break
                gradient = self._sweep(run, states, pull_back(weight * residual) / level**2)
                z.grad = first.sigma * gradient + self.prior * z
                before = z.clone()
                adam.step()
                z.copy_(torch.where(done.reshape(-1, 1, 1, 1), before, self._on_shell(z)))
            x0 = self._walk(run, first.sigma * z)[1]
        last = run.levels[-1]
        return last.alpha * x0 + last.sigma * run.draw.normal(x0)

    def _walk(self, run: Run, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The state at each level but the last, and the picture at the end."""
        states = []
        for _, t, s in replace(run, levels=[*run.levels[:-1], run.schedule.at(0.0, run.levels[0].scale)]).walk:
            states.append(x)
            x0 = run.prior(x, t).clone()
            x = s.sigma / t.sigma * x + (s.alpha - t.alpha * s.sigma / t.sigma) * x0
        return states, x

    def _sweep(self, run: Run, states: list[Tensor], v: Tensor) -> Tensor:
        """(dR / dx_T)^T v."""
        levels = [*run.levels[:-1], run.schedule.at(0.0, run.levels[0].scale)]
        for x, t, s in zip(reversed(states), levels[-2::-1], levels[:0:-1], strict=True):
            _, vjp = run.prior.linearise(x, t)
            share = s.alpha - t.alpha * s.sigma / t.sigma
            v = s.sigma / t.sigma * v + share * vjp(v, last=True)
        return v

    def _on_shell(self, z: Tensor) -> Tensor:
        if not self.shell:
            return z
        norm, radius = sample_norm(z), z[0].numel() ** 0.5
        return z * (norm.clamp(radius * (1 - self.shell), radius * (1 + self.shell)) / norm)
