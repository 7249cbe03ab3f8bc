"""Annealed restoration: plug-and-play half-quadratic splitting (Zhang et al. 2021, DPIR), https://arxiv.org/abs/2008.13751.

    x_{k+1} = alpha_s x0_hat(y),    x0_hat from x_k as if it held noise of level sigma_t

The denoiser and the data step alternate at falling noise levels and no noise is ever put back: one picture comes
out, an estimate near the posterior's mode, instead of a sample. It starts where a picture already is (the
back-projection A^+ y), at a moderate sigma.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..diffusion.level import Level
from ..guidance.state import Estimate


def annealed_restoration(
    model: Callable[..., Estimate],
    x: Tensor,
    levels: Sequence[Level],
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """The restored picture. Arguments as in `guided_ddim`; x is the start, scaled by alpha of the first level."""
    steps = len(levels) - 1
    for i, (t, s) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        x0, shift, _ = model(x, t, s, i / steps, i)
        if callback is not None:
            callback(i, x, x0)
        x = s.alpha * x0 + s.norm * shift
    return x
