"""Projection on the noised measurement: Score-SDE (Song et al. 2021), https://arxiv.org/abs/2011.13456, and ILVR.

After each step the state is made to agree with a measurement that carries as much noise as the state does:

    y_s = alpha_s y + sigma_s A z,    x_s += w A^+ (y_s - A x_s)

w = 1 replaces what was measured, as in Score-SDE's inpainting; w < 1 is the softer form of Song et al. 2022
(https://arxiv.org/abs/2111.08005) for noisy measurements. With A a reduction in size this is ILVR (Choi et al. 2021,
https://arxiv.org/abs/2108.02938), which keeps a reference's low frequencies and is usually ended early. Directions in
which y is noisier than the state, sigma_y / s_i > sigma_s / alpha_s, are left to the state (`Measurement.inverse`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..diffusion.state import Step
from ..measurement.measurement import Measurement
from .base import Guidance


def project(x_s: Tensor, measurement: Measurement, step: Step, weight: float = 1.0) -> Tensor:
    """x_s + w A^+ (alpha_s y + A (sigma_s z - x_s)), `B C H W`."""
    operator = measurement.operator
    noise = step.s.sigma * step.draw(x_s)
    residual = step.s.alpha * measurement.y + operator.forward(noise - x_s)
    return x_s + weight * measurement.inverse(residual, step.s.sigma_bar)


@dataclass(frozen=True)
class NoisedProjection(Guidance):
    """Projection of the state on the noised measurement.

    Args:
        weight: w in [0, 1]; 1 for clean measurements, less for noisy ones.
    """

    weight: float = 1.0

    label = "Noised projection"
    owns_transition = True
    needs = ("linear",)

    def transition(self, x_s: Tensor, step: Step) -> Tensor:
        return project(x_s, self.measurement, step, self.weight)
