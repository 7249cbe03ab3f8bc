"""The true posterior of an analytic prior, for comparison with what sampling gives."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from ...algebra.checkpoint import awaited
from ...algebra.refusal import Refusal
from ...measurement.coloured_noise import ColouredNoise
from ...measurement.measurement import Measurement
from ...measurement.noise import GaussianNoise
from ...priors.analytic import AnalyticNetwork

#: values of a picture up to which dense linear algebra is a matter of seconds
MOST = 3072


class Exact(NamedTuple):
    """Pictures `B C H W` in image units: the mean, the deviation of each value, samples; and log p(y)."""

    mean: Tensor
    deviation: Tensor
    samples: Tensor
    log_evidence: float


def exact_posterior(patcher, measurement: Measurement, count: int, seed: int) -> Exact:
    """p(x given y) by dense linear algebra in double precision.

    Args:
        patcher: the MODEL of an analytic prior.
        measurement: linear, with Gaussian noise, of one small picture.
        count: how many samples.

    Raises:
        Refusal: when it has no closed form, or the picture is too large.
    """
    network = patcher.model.diffusion_model
    if not isinstance(network, AnalyticNetwork):
        raise Refusal("This model has no closed form; connect a Gaussian, mixture or texture prior.")
    if not measurement.operator.linear or not isinstance(measurement.noise, GaussianNoise | ColouredNoise):
        raise Refusal("The exact posterior needs a linear operator and Gaussian noise; choose others, or sample.")
    shape, batch = measurement.image_shape, measurement.y.shape[0]
    size = shape[0] * shape[1] * shape[2]
    if size > MOST or batch != 1:
        raise Refusal(
            f"The exact posterior is for one picture of at most {MOST} values, and here are {batch} of {size}; "
            "use a batch of one and a smaller picture, for example 32 x 32."
        )

    @torch.inference_mode(False)
    @torch.no_grad()
    def exact() -> Exact:
        prior = copy.deepcopy(network).cpu().double().prior(shape).affine(0.5, 0.5)
        measured = measurement.to("cpu", torch.float64)
        measured = measured.whitened() if measured.noise.correlated else measured
        posterior = prior.posterior(measured)
        deviation = posterior.covariance().diagonal().clamp_min(0).sqrt().reshape(shape)
        samples = posterior.sample(count, seed)
        return Exact(posterior.mean[None], deviation[None], samples, prior.log_evidence(measured).item())

    return awaited(exact)
