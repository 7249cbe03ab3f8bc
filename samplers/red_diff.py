"""RED-diff (Mardani et al. 2024), https://arxiv.org/abs/2305.04391: variational inference with a point.

q(x_0) = delta(x_0 - mu) is moved towards the posterior by the gradient of its divergence, one noise level after the
other. With x_t = alpha_t mu + sigma_t n and the weight sigma_t / alpha_t of the paper's "linear" schedule the prior's
part is the distance to the model's prediction, whatever the model's parametrisation:

    g = A^T W^2 (A(mu) - y) + lambda (mu - x0_hat(x_t)),    mu <- Adam(mu, g)

The likelihood is the sum of squares, so that lambda means the same whatever was measured. The published code takes a
mean over y and another over x, which multiplies the first term by dim(x) / dim(y) (`mean`); Adam sees no common
factor. What comes out is a mode, which does not vary with the seed but for the noise of the optimisation; the model is
never differentiated. Adam moves a number by its rate in one step, so steps x rate bounds the way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..diffusion.run import Run
from ..guidance.dps import precision
from ..measurement.decoded import Decoded
from ..measurement.measurement import Measurement
from .base import Sampler


@dataclass(frozen=True)
class REDDiff(Sampler):
    """One model call and one step of Adam at each level.

    Args:
        prior: lambda, how much the model weighs against the measurement, > 0; the paper's is 0.25.
        rate: of Adam, in units of [-1, 1]; the paper's is 0.1.
        likelihood: of the sum of squares, or as published.
    """

    prior: float = 0.25
    rate: float = 0.1
    likelihood: Literal["sum", "mean"] = "sum"

    label = "RED-diff"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        measurement = run.measurement
        mu = first_picture(measurement, x)
        share = mu[0].numel() / measurement.y[0].numel() if self.likelihood == "mean" else 1.0
        with torch.inference_mode(False), torch.no_grad():
            mu = mu.clone()
            adam = torch.optim.Adam([mu], lr=self.rate / run.levels[0].scale, betas=(0.9, 0.99))
            for i, t, _ in run.walk:
                x_t = t.alpha * mu + t.sigma * run.draw.normal(mu)
                pull = run.prior(x_t, t).clone()
                mu.grad = share * misfit_gradient(measurement, mu) + self.prior * (mu - pull)
                adam.step()
                run.report(i, x_t, mu.clone(), t)
        last = run.levels[-1]
        return last.alpha * mu + last.sigma * run.draw.normal(mu)


def first_picture(measurement: Measurement, like: Tensor) -> Tensor:
    """Grey, put right by A^+ where A has one, for each of the samples in `like`: A^+ y of pictures in [-1, 1].

    For a latent model that picture, encoded.
    """
    operator = measurement.operator
    if isinstance(operator, Decoded):
        pictures = replace(measurement, operator=operator.operator)
        image = like.new_empty(len(like), *pictures.image_shape)
        return operator.codec.encode(first_picture(pictures, image))
    grey = torch.full_like(like, 0.5)
    if not operator.linear:
        return grey
    return grey + measurement.inverse(measurement.residual(grey))


def misfit_gradient(measurement: Measurement, x: Tensor) -> Tensor:
    """The gradient of norm(W (A(x) - y))^2 / 2, `B C H W`; W as in DPS, I where the noise has one level."""
    y, pull_back = measurement.operator.linearise(x)
    return pull_back(precision(measurement) ** 2 * (y - measurement.y))
