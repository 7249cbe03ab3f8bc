"""How sparing a pass with a gradient is made, and what to try next when it has failed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

#: latent pixels; 512 pixels of most VAEs
TILE = 64


@dataclass(frozen=True)
class MemoryPlan:
    """How a gradient pass is made.

    Args:
        out_of_place: replace augmented assignments; always so with checkpoints, whose second run would start from
            overwritten inputs.
        checkpoint: keep block inputs only.
        decoder: the same for a VAE, which saves less for more time.
        copies: keep copies of weights that pass through a buffer.
        tile: side of the tiles in which the VAE is decoded then, latent pixels; 0 for the whole picture.
        samples: at most so many samples at a time, 0 for all.
    """

    out_of_place: bool = False
    checkpoint: bool = False
    samples: int = 0
    decoder: bool = False
    tile: int = 0
    copies: bool = False

    def after(self, error: RuntimeError, batch: int, decodes: bool = False) -> MemoryPlan | None:
        """What to try next when a pass has failed with `error`, None when nothing is left.

        Args:
            decodes: whether the gradient passes through a VAE.
        """
        if "modified by an inplace operation" in str(error) and not self.copies:
            return replace(self, out_of_place=True, copies=self.out_of_place)
        if not is_out_of_memory(error):
            return None
        if not self.checkpoint:
            return replace(self, out_of_place=True, checkpoint=True)
        if decodes and not self.decoder:
            return replace(self, decoder=True)
        if decodes and not self.tile:
            return replace(self, tile=TILE)
        samples = (self.samples or batch) // 2
        return replace(self, samples=samples) if samples else None


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
