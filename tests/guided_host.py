"""What the tests of guided sampling in the host share: a tiny Gaussian MODEL, a measurement, guidance."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from posterior.algebra.autograd import pulled_back, traced
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.inpainting import Inpainting
from posterior.samplers.base import Sampler

SIZE = 8


@dataclass(frozen=True)
class Probe(Sampler):
    """Notes the slope of the residual along its gradient, by the chain of vjps and by a central difference."""

    jacobian: bool = True

    def __call__(self, run, x):
        t, measurement = run.levels[0], run.measurement

        def loss(x0):
            return measurement.residual(x0).square().sum().item()

        x0, vjp = run.prior.linearise(x, t)
        leaf, residual = traced(measurement.residual, x0)
        v = pulled_back(residual, leaf, 2 * residual.detach())
        gradient = vjp(v)
        d = gradient / gradient.norm()
        h = 0.01 * t.sigma
        difference = loss(run.prior(x + h * d, t)) - loss(run.prior(x - h * d, t))
        run.record["slopes"] = gradient.norm().item(), difference / (2 * h)
        return x0


def gaussian_model(host):
    """A Gaussian pixel MODEL."""
    images = torch.rand(6, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    return host.call("PosteriorGaussianPrior", images=images, floor=0.05)


def dynamic_patcher():
    """A class of the host's patchers whose weights move while they run, as newer hosts have it on some cards."""
    import comfy.model_patcher

    class Dynamic(comfy.model_patcher.ModelPatcher):
        def is_dynamic(self) -> bool:
            return True

    return Dynamic


def measured(batch: int = 1, size: int = SIZE) -> Measurement:
    """The left half of random pictures, without noise."""
    mask = torch.zeros(1, 1, size, size)
    mask[..., size // 2 :] = 1
    picture = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(3))
    return Measurement.observe(Inpainting(mask), picture, GaussianNoise(0.0))


def guide(block):
    """A LIKELIHOOD_GUIDANCE of one block."""
    from posterior.host.run import Guide

    return (Guide(block),)


def apply_guidance(model, guides):
    from posterior.host import apply

    return apply.apply_guidance(model, guides)


def misfit(measurement: Measurement, samples: torch.Tensor) -> float:
    """Largest residual of LATENT samples of a pixel model, image units."""
    return measurement.residual((samples + 1) / 2).abs().max().item()
