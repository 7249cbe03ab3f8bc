"""What a guidance block sees, and what it answers: the prior at one state of the trajectory.

Two idioms carry every method. A *conditional denoiser* maps (x_t, t) to x0_hat(y) and works in any sampler; a
*transition* changes how the step itself is made, and works in the samplers that own their trajectory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torch import Tensor

from ..algebra.autograd import pulled_back, traced
from ..algebra.streams import Streams
from .level import Level


class Vjp(Protocol):
    """v to J^T v with J = d x0_hat / d x_t."""

    def __call__(self, v: Tensor, last: bool = False) -> Tensor:
        """J^T v. last: the graph is not needed again and is freed on the way, which is a tenth faster."""


class Prior(Protocol):
    """The unguided model in the coordinates of the measurement, x_t: `B C H W`."""

    def __call__(self, x: Tensor, t: Level) -> Tensor:
        """x0_hat = E[x_0|x_t], without a graph."""

    def linearise(self, x: Tensor, t: Level) -> tuple[Tensor, Vjp]:
        """x0_hat, and the map v to J^T v; one forward pass."""


@dataclass(frozen=True)
class DenoiserPrior:
    """A plain function `(x_t, t) -> x0_hat`, differentiated by autograd.

    Works under inference mode too, provided that what the function holds are normal tensors.
    """

    denoiser: Callable[[Tensor, Level], Tensor]

    def __call__(self, x: Tensor, t: Level) -> Tensor:
        return self.denoiser(x, t)

    def linearise(self, x: Tensor, t: Level) -> tuple[Tensor, Vjp]:
        leaf, x0 = traced(lambda x: self.denoiser(x, t), x)

        def vjp(v: Tensor, last: bool = False) -> Tensor:
            return pulled_back(x0, leaf, v, keep=not last, apart=True)

        return x0.detach(), vjp


@dataclass
class State:
    """The prior's prediction at x_t, in the coordinates of the measurement (images in [0, 1], or latents).

    Args:
        x_t: `B C H W`.
        t: its noise level, in the same unit as x_t.
        x0: x0_hat = E[x_0|x_t], the prior's denoised prediction, `B C H W`.
        jacobian: v to J^T v with J = d x0_hat / d x_t; None unless a block asked for it.
        prior: for methods that need it at other states too; each costs a model call.
        s: the level that the step goes to, where the sampler says.
        progress: part of the sampling that is done, 0 at the start, 1 at the end.
        index: number of the step, from 0.
        draw: fresh randomness.
        last: whether nobody needs the Jacobian after the block that is asked now.
    """

    x_t: Tensor
    t: Level
    x0: Tensor
    jacobian: Vjp | None = None
    prior: Prior | None = None
    s: Level | None = None
    progress: float = 0.0
    index: int = 0
    draw: Streams = field(default_factory=lambda: Streams(0, "guidance"))
    last: bool = field(default=False, kw_only=True)

    def vjp(self, v: Tensor, last: bool = False) -> Tensor:
        """J^T v. last: the block will not ask again; forgetting to say so only costs time and memory."""
        return self.jacobian(v, last and self.last)

    def tweedie(self, gradient: Tensor) -> Tensor:
        """What a likelihood gradient adds to x0_hat: (sigma_t^2 / alpha_t) grad_{x_t} log p(y given x_t)."""
        return self.t.sigma**2 * self.t.inverse_alpha * gradient

    def white_variance(self, deviation: float = 1.0) -> float:
        """r_t^2 = c sigma_t^2 / (alpha_t^2 c + sigma_t^2), Var[x_0|x_t] of a white prior of variance c.

        Args:
            deviation: sqrt(c) in the model's unit; 1 is what the papers assume of pictures in [-1, 1].
        """
        c, noise = (deviation / self.t.scale) ** 2, self.t.sigma**2
        return c * noise / (self.t.alpha**2 * c + noise)

    def covariance(self, v: Tensor, jacobian: bool = True, deviation: float = 1.0, last: bool = False) -> Tensor:
        """Cov[x_0|x_t] v = (sigma_t^2 / alpha_t) J^T v (second-order Tweedie); without the Jacobian r_t^2 v."""
        return self.tweedie(self.vjp(v, last)) if jacobian else self.white_variance(deviation) * v

    def pull_back(self, v: Tensor, jacobian: bool = True, deviation: float = 1.0, last: bool = False) -> Tensor:
        """J^T v; without the Jacobian that of the white prior, J = (alpha_t / sigma_t^2) r_t^2 I."""
        if jacobian:
            return self.vjp(v, last)
        return self.t.alpha / self.t.sigma**2 * self.white_variance(deviation) * v

    def published(self, gradient: Tensor) -> Tensor:
        """The gradient of a residual's norm in the units of the papers' recipes, which step on variance-preserving
        states of pictures in [-1, 1].

        One unit of an image in [0, 1] is two of theirs, and one unit of x_t is `scale` of the model's.

        Args:
            gradient: with respect to x_t (or x_0), the residual in image units.
        """
        return 2 / self.t.scale**2 * self.t.vp_norm * gradient


class Estimate(NamedTuple):
    """The answer of a guidance block.

    Args:
        x0: x0_hat(y), what the step uses and previews show.
        shift: added to x_s / vp_norm_s after the step, that is in variance-preserving coordinates, where the
            after-step recipes of the papers (DPS) are written.
        ascent: where the sampler's fresh noise turns to (DSG): a direction in which p(y given x_t) rises, its length
            per sample the share of the turn.
    """

    x0: Tensor
    shift: Tensor | float = 0.0
    ascent: Tensor | float = 0.0


@dataclass
class Step:
    """A DDIM step t to s as made by the sampler, for blocks that own their transition.

    x_s = alpha_s x0 + sqrt(sigma_s^2 - v^2) eps + v z + vp_norm_s shift, with eps = (x_t - alpha_t x0) / sigma_t.

    Args:
        t, s: the levels.
        x0: the estimate's x0_hat(y).
        eps, z: predicted and fresh noise, the latter as turned; z is zero where v is.
        v: standard deviation of the fresh noise.
        draw: more fresh noise in the shape of a tensor, each sample from its own stream.
        progress, index: as in `State`.
    """

    t: Level
    s: Level
    x0: Tensor
    eps: Tensor
    v: float
    z: Tensor
    draw: Callable[[Tensor], Tensor]
    progress: float = 0.0
    index: int = 0


def predict(
    prior: Prior | Callable[[Tensor, Level], Tensor], x_t: Tensor, t: Level, jacobian: bool = False, **fields
) -> State:
    """The State at x_t, by one call of the prior; a plain function `(x_t, t) -> x0_hat` will do.

    Args:
        jacobian: whether J^T v will be asked for.
    """
    prior = prior if hasattr(prior, "linearise") else DenoiserPrior(prior)
    x0, vjp = prior.linearise(x_t, t) if jacobian else (prior(x_t, t), None)
    return State(x_t, t, x0, vjp, prior, **fields)
