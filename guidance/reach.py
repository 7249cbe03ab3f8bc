"""Pi-GDM for as long as it reaches: whether a model's own covariance knows what lies deep inside of what is gone.

Where much of the picture is gone, what was seen has to reach far. The covariance of a model that knows such pictures
(digits, faces) does; that of a model of texture forgets what was seen after a few pixels, and its gradient spends
itself beside the rim. The correction d that Pi-GDM makes tells them apart, for each sample in each step:

    reach = RMS of d over what is `deep` / RMS of d over what was seen

Below LEAST the estimate of the blocks before stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.state import Estimate, State
from ..measurement.measurement import Measurement
from .pigdm import PiGDM

#: least reach that is worth following. Ten levels from 20 to 0.02, half of the picture gone, training pictures, the
#: levels 12 / 7 / 3.9 / 2.0: textures .44 / .40 / .37 / .26, mixtures of 8 .45 / .48 / .57 / .59, digits .60 / .53 /
#: .33 / .18, photographs .10 / .07 / .04 / .04; at 20, where an estimate hardly matters, .45 / .48 / .49 and .18
LEAST = 0.1


def seen_and_deep(measurement: Measurement) -> tuple[Tensor, Tensor]:
    """Where the picture was seen, and where it is further than an eighth of its shorter side from all of that.

    bool `B 1 H W`, B as of the measurement. For operators that are `local`.
    """
    seen = measurement.operator.adjoint(torch.ones_like(measurement.y)).abs().amax(1, keepdim=True)
    far = max(min(seen.shape[-2:]) // 8, 1)
    near = F.max_pool2d(seen, (2 * far + 1, 1), 1, (far, 0))
    return seen > 0, F.max_pool2d(near, (1, 2 * far + 1), 1, (0, far)) == 0


@dataclass(frozen=True)
class ReachingPiGDM(PiGDM):
    """Pi-GDM where its correction reaches what is deep, and what came before it elsewhere.

    Args:
        limit: as in Pi-GDM. `bench frontier --train`, in the first half of the sampling, 20 calls, with 3, 3.5 and 4:
            textures .269, .271, .303, mixtures of 3 .276, .278, .281, of 8 .373, .375, .374, digits .054, .050, .050.
    """

    limit: float = 3.5

    label = "Pi-GDM where it reaches"
    needs = ("linear",)

    @cached_property
    def _near_and_far(self) -> tuple[Tensor, Tensor]:
        return seen_and_deep(self.measurement)

    def estimate(self, state: State, x0: Tensor) -> Estimate:
        own = super().estimate(state, state.x0).x0
        near, far = (_mean_square(own - state.x0, where) for where in self._near_and_far)
        return Estimate(torch.where(far >= LEAST**2 * near, own, x0))


def _mean_square(d: Tensor, where: Tensor) -> Tensor:
    """`B 1 1 1`."""
    where = where.to(d).expand(-1, d.shape[1], -1, -1)
    return (d.square() * where).sum((1, 2, 3), keepdim=True) / where.sum((1, 2, 3), keepdim=True).clamp_min(1)
