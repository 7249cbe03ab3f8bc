"""Annealed restoration: plug-and-play half-quadratic splitting (Zhang et al. 2021, DPIR), https://arxiv.org/abs/2008.13751.

    x_{k+1} = alpha_s x0_hat(y),    x0_hat from x_k as if it held noise of level sigma_t

The denoiser and the data step alternate at falling noise levels and no noise is ever put back: one picture comes
out, an estimate near the posterior's mode, instead of a sample. It starts where a picture already is (the
back-projection A^+ y), at a moderate sigma.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.run import Run
from ..measurement.coloured_noise import ColouredNoise
from ..measurement.measurement import Measurement
from .base import Sampler


@dataclass(frozen=True)
class AnnealedRestoration(Sampler):
    """x_T is the start, scaled by alpha of the first level."""

    label = "Annealed restoration"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        for i, t, s in run.walk:
            x0, shift, _ = run.guided(x, t, s, i)
            run.report(i, x, x0, t)
            x = s.alpha * x0 + s.vp_norm * shift
        return x


def restoration_sigmas(start: float, end: float, steps: int) -> Tensor:
    """`steps` noise levels from start down to end in equal ratios, and the final 0."""
    return torch.cat([torch.logspace(torch.tensor(start).log10(), torch.tensor(end).log10(), steps), torch.zeros(1)])


def restoration_sigmas_for(measurement: Measurement, steps: int) -> Tensor:
    """A ladder that fits the noise, [-1, 1] unit: it ends at half the measurement's own level.

    JPEG and the like, which are not linear, have one ladder at all qualities, 0.3 to 0.03.

    There the proximal step still trusts the data more than the prior by four to one, so that the picture neither
    fits the noise nor misses the data. It starts where a denoiser can bridge a scratch. Noise with blotches is white
    noise of several levels, one for each frequency: it starts at the loudest, and goes on to less than half of their
    mean (how chosen: four crops of 96 x 96 of photographs that the embedded prior was trained on).
    """
    if not measurement.operator.linear:
        return restoration_sigmas(0.3, 0.03, steps)
    level = float(torch.as_tensor(measurement.noise.deviation(measurement.y)).double().mean())
    end = min(max(level, 0.01), 1.0)  # 2 sigma_y / 2
    if isinstance(measurement.noise, ColouredNoise):
        loudest = 2 * measurement.noise.spectrum.max().sqrt().item()
        return restoration_sigmas(min(max(0.4, loudest), 4.0), 0.4 * end, steps)
    return restoration_sigmas(max(0.4, 2 * end), end, steps)
