"""Analytic priors as networks of the host: no weights were trained, the denoiser is the formula.

Each takes x_t in [-1, 1] plus noise and the host's timesteps = log(sigma) / 4, and gives the exact E[x_0|x_t] of
its Gaussian or mixture. What they hold are parameters, so that the host moves and counts them.
"""

from __future__ import annotations

from abc import abstractmethod
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from ..algebra.refusal import Refusal
from .gaussian import Gaussian, GaussianPrior, StationaryGaussian
from .mixture import GaussianMixture


def _held(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


class AnalyticNetwork(nn.Module):
    """x_t to E[x_0|x_t]; all samples of a call share one noise level, as the host calls its models."""

    dtype = torch.float32  # the host asks its networks for it

    @abstractmethod
    def prior(self, shape: tuple[int, ...]) -> GaussianPrior | GaussianMixture:
        """The prior of pictures of (C, H, W)."""

    def forward(self, x: Tensor, timesteps: Tensor, **kwargs) -> Tensor:
        level = SimpleNamespace(alpha=1.0, sigma=(4 * timesteps.max()).exp())
        return self.prior(tuple(x.shape[1:])).denoiser(x, level)


def _require_size(shape: tuple[int, ...], mine: torch.Size) -> None:
    if tuple(shape) != tuple(mine):
        raise Refusal(
            f"This prior was made from {mine[-1]} x {mine[-2]} pictures and the latent is {shape[-1]} x {shape[-2]}; "
            "make both the same size."
        )


class PictureGaussian(AnalyticNetwork):
    """N(mu, C) with the mean and the covariance of some pictures, `N C H W` in [-1, 1], N > 1.

    Args:
        floor: deviation in the directions that the pictures do not span, [-1, 1] unit, > 0.
    """

    def __init__(self, pictures: Tensor, floor: float):
        super().__init__()
        if len(pictures) < 2:
            raise Refusal("One picture has no covariance; give a batch of two or more, or use the texture prior.")
        gaussian = Gaussian.from_pictures(pictures, floor)
        self.mean, self.variances, self.basis = map(_held, (gaussian.mean, gaussian.variances, gaussian.basis))
        self.floor = floor

    def prior(self, shape: tuple[int, ...]) -> Gaussian:
        _require_size(shape, self.mean.shape)
        return Gaussian(self.mean, self.variances, self.basis, self.floor**2)


class PictureMixture(AnalyticNetwork):
    """One round Gaussian around each of some pictures, `K C H W` in [-1, 1], with equal weights.

    Args:
        deviation: of each Gaussian, [-1, 1] unit, > 0.
    """

    def __init__(self, pictures: Tensor, deviation: float):
        super().__init__()
        self.centres = _held(pictures)
        self.deviation = deviation

    def prior(self, shape: tuple[int, ...]) -> GaussianMixture:
        _require_size(shape, self.centres.shape[1:])
        return GaussianMixture.from_centres(self.centres, self.deviation)


class Texture(AnalyticNetwork):
    """The stationary Gaussian texture of one picture, `C h w` in [-1, 1]; for pictures of any size.

    Args:
        floor: deviation added in every direction, [-1, 1] unit.
    """

    def __init__(self, picture: Tensor, floor: float):
        super().__init__()
        self.picture = _held(picture)
        self.floor = floor
        self._made: dict[tuple, StationaryGaussian] = {}

    def prior(self, shape: tuple[int, ...]) -> StationaryGaussian:
        key = (*shape, self.picture.device, self.picture.dtype)
        if key not in self._made:
            with torch.inference_mode(False), torch.no_grad():
                self._made = {key: StationaryGaussian.from_texture(self.picture, shape[-2:], self.floor)}
        return self._made[key]
