"""Our samplers as native SAMPLER objects of the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakSet

import comfy.samplers
import torch
from torch import Tensor

from ..algebra.streams import Streams
from ..diffusion.level import Level
from ..samplers.base import Sampler
from .autograd.gradients import normal
from .run import Guide, GuidedRun, attached_guides, refuse_transitions
from .step_list import require_steps

#: random numbers to look at for the place of a sample in its batch: half a second
_LOOKED_UP = 2**26
#: guiders whose MODEL's guides a sampler of ours listens to now
LISTENING: WeakSet = WeakSet()


@contextmanager
def _listening(guider) -> Iterator[None]:
    LISTENING.add(guider)
    try:
        yield
    finally:
        LISTENING.discard(guider)


class GuidedSampler(comfy.samplers.KSAMPLER):
    """A SAMPLER that runs one of ours on the guided model.

    It listens to `guides` after those that the MODEL brings along.

    Args:
        record: takes what the sampler notes (`Run.record`), for callers that have no guide with a trace.

    Raises:
        Refusal: for blocks that change the step itself, where the sampler does not let them.
    """

    def __init__(self, guides: Sequence[Guide], sampler: Sampler, record: dict | None = None):
        super().__init__(None)
        if not sampler.transitions:
            refuse_transitions(guides)
        del self.sampler_function  # ours is a method: a bound one in its place would tie the object to itself
        self.guides, self.sampler, self.record = tuple(guides), sampler, record

    def sampler_function(self, model, x: Tensor, sigmas: Tensor, extra_args=None, callback=None, disable=None):
        """model: the host's denoiser with its mask, `(x, sigma, denoise_mask, model_options, seed)` to x0_hat."""
        guider, extra_args = model.inner_model, dict(extra_args or {})
        model_options = extra_args.pop("model_options", {})
        guides = (*attached_guides(guider.model_patcher), *self.guides)
        require_steps(sigmas.tolist(), falling=bool(guides))
        with _listening(guider), GuidedRun(guider, guides, x, self.sampler.jacobian) as host:
            if host.jacobian and extra_args.get("denoise_mask") is not None:
                extra_args["denoise_mask"] = normal(extra_args["denoise_mask"])

            def predict(x_t: Tensor, sigma: Tensor, options: dict) -> Tensor:
                return model(x_t, sigma, model_options=options, **extra_args)

            draw = streams(extra_args.get("seed") or 0, getattr(model, "noise", x))
            run = host.run(predict, sigmas.tolist(), draw, model_options)

            def report(i: int, u: Tensor, x0: Tensor, t: Level) -> None:
                host.require_finite(x0, t)
                if callback is not None:
                    sigma = t.sigma * host.space.scale
                    state, denoised = host.space.to_model(u, t.alpha), host.space.to_model(x0, 1.0)
                    callback({"x": state, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})

            run.report = report
            with torch.no_grad():
                u = self.sampler(run, host.space.to_native(x, run.levels[0].alpha))
            if self.record is not None:
                self.record.update(run.record)
            return host.space.to_model(u, run.levels[-1].alpha)


def streams(seed: int, noise: Tensor) -> Streams:
    """Fresh randomness for the samples that start from `noise`, the host's, `B ...`."""
    return Streams(seed, "sampling", _sample_indices(noise, seed))


def _sample_indices(noise: Tensor, seed: int) -> list[int]:
    """The number that each sample has in its batch, also where it was taken out of one (`batch_index`).

    The host draws the noise of one sample after the other from one stream and tells nobody which they are, so they are
    looked up among the first of that stream. Other noise is taken as that of samples 0, 1, 2 ...
    """
    count = len(noise)
    if not noise.any():
        return list(range(count))
    heads = noise.flatten(1)[:, :16].cpu()
    generator = torch.Generator("cpu").manual_seed(seed)
    found: dict[int, int] = {}
    for index in range(max(count, min(4096, _LOOKED_UP // noise[0].numel()))):
        head = torch.randn(noise.shape[1:], generator=generator, dtype=noise.dtype).flatten()[:16]
        found |= {row: index for row in range(count) if row not in found and torch.equal(heads[row], head)}
        if len(found) == count:
            return [found[row] for row in range(count)]
    return list(range(count))
