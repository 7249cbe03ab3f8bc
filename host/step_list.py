"""What a list of SIGMAS must be like to be sampled with."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..algebra.refusal import Refusal


def require_steps(sigmas: Sequence[float], falling: bool = False) -> None:
    """Refuses SIGMAS that no sampler can follow. Equal ones in a row, one alone and none at all are no steps.

    Args:
        falling: whether rising ones, which turn a picture into noise, are refused as well.
    """
    if not all(math.isfinite(sigma) and sigma >= 0 for sigma in sigmas):
        worst = next(sigma for sigma in sigmas if not (math.isfinite(sigma) and sigma >= 0))
        raise Refusal(f"The step list (sigmas) holds {worst:g}; make it with a scheduler, from large noise to 0.")
    if len(sigmas) > 1 and not any(sigmas):
        raise Refusal("The step list (sigmas) holds nothing but 0, so there is no noise to remove; raise denoise.")
    if falling and any(later > sooner for sooner, later in zip(sigmas, sigmas[1:], strict=False)):
        raise Refusal("The step list (sigmas) rises; guidance works from large noise to 0, so turn it around.")
