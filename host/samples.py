"""Many samples of one posterior, in chunks that fit the memory: only a few are kept, the moments are of all.

Sample k starts from the k-th noise of the seed, as it would in one large batch, whatever the chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import comfy.model_management
import torch
from torch import Tensor

from ..measurement.samples import Moments
from .solve import Path

#: samples in one chunk at most, where the memory is no bound
MOST = 16


@dataclass
class Gathered:
    """What has been sampled.

    Args:
        kept: the first samples, `B C H W` in [0, 1], on the CPU.
        moments: of all of them.
        asked: how many were asked for; fewer are there after an interrupt.
    """

    asked: int
    kept: Tensor | None = None
    moments: Moments = field(default_factory=Moments)

    def add(self, samples: Tensor, keep: int) -> None:
        samples = samples.float().cpu()
        self.moments.add(samples)
        have = 0 if self.kept is None else len(self.kept)
        more = samples[: max(keep - have, 0)]
        self.kept = more if self.kept is None else torch.cat([self.kept, more])


def gather(patcher, path: Path, count: int, keep: int, chunk: int, sample: Callable[[int, int], Tensor]) -> Gathered:
    """`count` samples; an interrupt after the first chunk ends it with what is there.

    Args:
        keep: how many samples are kept, at least one; their memory is what grows.
        chunk: samples made at once; 0 for as many as the memory holds.
        sample: (first, number) to pictures `B C H W` in [0, 1].
    """
    found, size = Gathered(count), chunk or fitting(patcher, path, count)
    while found.moments.count < count:
        first = found.moments.count
        try:
            pictures = sample(first, min(size, count - first))
        except comfy.model_management.InterruptProcessingException:
            if not first:
                raise
            break
        found.add(pictures, keep)
    return found


def fitting(patcher, path: Path, count: int) -> int:
    """How many samples the model takes at once by the host's own estimate of its memory."""
    management = comfy.model_management
    if management.is_device_cpu(patcher.load_device):
        return 1  # more at once are no faster there
    _, height, width = path.measurement.image_shape
    need = patcher.model.memory_required([2, patcher.model.latent_format.latent_channels, height, width])
    return max(1, min(MOST, count, int(0.5 * management.get_free_memory(patcher.load_device) / max(need, 1))))
