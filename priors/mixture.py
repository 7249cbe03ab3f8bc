"""Gaussian mixtures: multimodal priors whose denoiser and posterior are still known in closed form.

    p(x_0) = sum_k w_k N_k(x_0)
    E[x_0|x_t] = sum_k r_k(x_t) E_k[x_0|x_t],    r_k = w_k p_{k,t}(x_t) / sum_j w_j p_{j,t}(x_t)

and a linear measurement gives a mixture again: weights proportional to w_k p_k(y), components N_k given y.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..algebra.streams import Streams
from ..measurement.measurement import Measurement
from .gaussian import Gaussian, GaussianPrior

if TYPE_CHECKING:
    from ..diffusion.level import Level


class GaussianMixture:
    """sum_k w_k N_k.

    Args:
        components: Gaussian priors of one shape.
        weights: `K`, positive; normalised here. Equal by default.
    """

    def __init__(self, components: Sequence[GaussianPrior], weights: Tensor | None = None):
        self.components = list(components)
        mean = self.components[0].mean
        weights = mean.new_ones(len(self.components)) if weights is None else weights.to(mean)
        self.weights = weights / weights.sum()

    @classmethod
    def from_centres(cls, centres: Tensor, deviation: float, weights: Tensor | None = None) -> GaussianMixture:
        """Equal round components around centres `K C H W`, a kernel density estimate."""
        return cls([Gaussian.isotropic(centre, deviation) for centre in centres], weights)

    def affine(self, factor: float, offset: float) -> GaussianMixture:
        """The prior of factor x_0 + offset: the same in another unit."""
        return GaussianMixture([part.affine(factor, offset) for part in self.components], self.weights)

    @property
    def mean(self) -> Tensor:
        """E[x_0], `C H W`."""
        return torch.einsum("k,kchw->chw", self.weights, torch.stack([part.mean for part in self.components]))

    def covariance(self) -> Tensor:
        """Cov[x_0] as a dense matrix: the mean of the components' covariances plus the covariance of their means."""
        offsets = torch.stack([part.mean for part in self.components]).flatten(1) - self.mean.flatten()
        within = sum(w * part.covariance() for w, part in zip(self.weights, self.components, strict=True))
        return within + (self.weights * offsets.T) @ offsets

    def _joint(self, x_t: Tensor, level: Level) -> Tensor:
        """log w_k + log p_{k,t}(x_t), `K B`."""
        return torch.stack([part.log_prob(x_t, level) for part in self.components]) + self.weights.log()[:, None]

    def responsibilities(self, x_t: Tensor, level: Level) -> Tensor:
        """r_k(x_t), the probability that x_0 came from component k, `B K`."""
        return self._joint(x_t, level).softmax(0).T

    def log_prob(self, x_t: Tensor, level: Level) -> Tensor:
        """log p_t(x_t), per sample, `B`; needs sigma > 0 or components of full rank."""
        return self._joint(x_t, level).logsumexp(0)

    def denoiser(self, x_t: Tensor, level: Level) -> Tensor:
        """E[x_0|x_t], `B C H W`, differentiable; needs what `log_prob` needs."""
        shares = self.responsibilities(x_t, level).T[..., None, None, None]
        return sum(share * part.denoiser(x_t, level) for share, part in zip(shares, self.components, strict=True))

    def sample(self, count: int, seed: int) -> Tensor:
        """`count` independent draws of x_0; sample i depends on the seed and on i only."""
        bounds, uniform = self.weights.double().cpu().cumsum(0), Streams(seed, "component", count).uniform()[:, 0]
        chosen = torch.searchsorted(bounds[:-1], bounds[-1] * uniform).tolist()
        draws = {k: self.components[k].sample(count, seed) for k in set(chosen)}
        return torch.stack([draws[k][i] for i, k in enumerate(chosen)])

    def posterior(self, measurement: Measurement) -> GaussianMixture:
        """p(x_0 given y) for a linear operator and one y (`1 ...`)."""
        evidence = torch.stack([part.log_evidence(measurement) for part in self.components])
        weights = (self.weights.log() + evidence).softmax(0)
        return GaussianMixture([part.posterior(measurement) for part in self.components], weights)

    def log_evidence(self, measurement: Measurement) -> Tensor:
        """log p(y), a scalar, over the measured entries of y (`1 ...`)."""
        evidence = torch.stack([part.log_evidence(measurement) for part in self.components])
        return (self.weights.log() + evidence).logsumexp(0)
