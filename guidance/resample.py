"""ReSample (Song et al. 2023), https://arxiv.org/abs/2307.08123: hard data consistency for latent models.

The sampler runs unguided. On every n-th step the prediction is made to agree with the measurement by an optimiser, and
the state is drawn anew around it:

    first third    nothing
    second third   x0(y) = E(argmin_x norm(y - A(x))^2), started at D(x0_hat)
    last third     x0(y) = argmin_z norm(y - A(D(z)))^2, started at x0_hat; once more at the end
    resample       x_s ~ N((v_r^2 alpha_s x0(y) + sigma_s^2 x_s) / w, v_r^2 sigma_s^2 / w),    w = v_r^2 + sigma_s^2

with v_r^2 = gamma v^2, v the fresh noise of an ancestral step (DDIM with eta = 1), as in the published code. The
optimiser is Adam and stops where the residual is down to the noise. The published code also takes a step of DPS before,
which is a block of its own here, and some steps without guidance after each resampling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..algebra.devices import precise
from ..diffusion.state import Step
from ..measurement.measurement import Measurement
from .base import Guidance

#: residual that counts as none, image units; the published code's 1e-3 of pictures in [-1, 1]
CLEAN = 5e-4


@dataclass(frozen=True)
class ReSample(Guidance):
    """Hard consistency on some steps, for latent models and samplers that own their trajectory.

    Args:
        every: n; the code uses 10 with 500 steps.
        gamma: how much of the state is drawn anew, > 0; the code uses 40.
        iterations: cap of the optimiser's steps on latents, each a decoding with its gradient; the code uses 500.
            Those on pictures cost little, and four times as many are allowed.
    """

    every: int = 10
    gamma: float = 40.0
    iterations: int = 50

    label = "ReSample"
    owns_transition = True
    latent = "only"

    def transition(self, x_s: Tensor, step: Step) -> Tensor:
        if step.s.sigma == 0:
            return self._on_latents(x_s)
        if step.index % self.every or step.progress < 1 / 3:
            return x_s
        x0 = self._on_pictures(step.x0) if step.progress < 2 / 3 else self._on_latents(step.x0)
        t, s = step.t, step.s
        fresh = self.gamma * s.sigma**2 * (1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2)
        total = fresh + s.sigma**2
        mean = (fresh * s.alpha * x0 + s.sigma**2 * x_s) / total
        return mean + (fresh * s.sigma**2 / total) ** 0.5 * step.draw(x_s)

    def _on_pictures(self, z: Tensor) -> Tensor:
        operator = self.measurement.operator
        of_pictures = replace(self.measurement, operator=operator.operator)
        with torch.no_grad():
            image = operator.codec.decode(z)
            return operator.codec.encode(fitted(of_pictures, image, 4 * self.iterations, 1e-2))

    def _on_latents(self, z: Tensor) -> Tensor:
        return fitted(self.measurement, z, self.iterations, 5e-3)


def fitted(measurement: Measurement, start: Tensor, iterations: int, rate: float) -> Tensor:
    """A minimiser of norm(y - A(x)) near `start`, each sample until its residual is down to the noise.

    Args:
        rate: of Adam, that is about the change of each number in one of its steps.
    """
    deviation = precise(torch.as_tensor(measurement.noise.deviation(measurement.y)))
    goal = deviation.square().mean().sqrt().clamp_min(CLEAN).to(start.device)
    with torch.inference_mode(False), torch.enable_grad():
        x = start.detach().clone().requires_grad_()
        optimiser = torch.optim.Adam([x], lr=rate)
        for _ in range(iterations):
            rms = measurement.residual_rms(x)
            left = (rms > goal).reshape(-1, *[1] * (x.ndim - 1))
            if not left.any():
                break
            (x.grad,) = torch.autograd.grad(rms.sum(), x)
            before = x.detach().clone()
            optimiser.step()
            x.data = torch.where(left, x.data, before)  # a sample that is done must not drift on
    return x.detach()
