"""Annealed restoration: plug-and-play half-quadratic splitting (Zhang et al. 2021, DPIR), https://arxiv.org/abs/2008.13751.

    x_{k+1} = alpha_s x0_hat(y),    x0_hat from x_k as if it held noise of level sigma_t

The denoiser and the data step alternate at falling noise levels and no noise is ever put back: one picture comes
out, an estimate near the posterior's mode, instead of a sample. It starts where a picture already is (the
back-projection A^+ y), at a moderate sigma.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..diffusion.run import Run
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
