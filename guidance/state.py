"""What a guidance block sees: the prior at one state of the trajectory.

Two idioms carry every method. A *conditional denoiser* maps (x_t, t) to x0_hat(y) and works in any sampler; a
*transition* changes how the step itself is made, and works in the samplers that own their trajectory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..algebra.autograd import pulled_back, traced
from ..diffusion.level import Level


@dataclass
class State:
    """The prior's prediction at x_t, in the coordinates of the measurement (images in [0, 1], or latents).

    Args:
        x_t: `B C H W`.
        t: its noise level, in the same unit as x_t.
        s: the level that the step goes to, where the sampler says.
        x0: x0_hat = E[x_0|x_t], the prior's denoised prediction, `B C H W`.
        vjp: v to J^T v with J = d x0_hat / d x_t; None unless the guidance asked for it. May be called often.
        elsewhere: another state of the same level to its own (x0_hat, vjp), whose vjp is for one use; None as vjp is.
            Costs a model call.
        progress: part of the sampling that is done, 0 at the start, 1 at the end.
        index: number of the step, from 0.
    """

    x_t: Tensor
    t: Level
    x0: Tensor
    vjp: Callable[[Tensor], Tensor] | None = None
    elsewhere: Callable[[Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]] | None = None
    s: Level | None = None
    progress: float = 0.0
    index: int = 0

    def tilt(self, gradient: Tensor) -> Tensor:
        """What a likelihood gradient adds to x0_hat: (sigma_t^2 / alpha_t) grad_{x_t} log p(y given x_t).

        At alpha_t = 0 the state says nothing about x_0 and the gradient vanishes.
        """
        if self.t.alpha < 1e-4:
            return torch.zeros_like(gradient)
        return (self.t.sigma**2 / self.t.alpha) * gradient

    def spread(self, deviation: float = 1.0) -> float:
        """r_t^2 = c sigma_t^2 / (alpha_t^2 c + sigma_t^2), Var[x_0|x_t] of a white prior of variance c.

        Args:
            deviation: sqrt(c) in the model's unit; 1 is what the papers assume of pictures in [-1, 1].
        """
        c, noise = (deviation / self.t.scale) ** 2, self.t.sigma**2
        return c * noise / (self.t.alpha**2 * c + noise)

    def covariance(self, v: Tensor, jacobian: bool = True, deviation: float = 1.0) -> Tensor:
        """Cov[x_0|x_t] v = (sigma_t^2 / alpha_t) J^T v (second-order Tweedie); without the Jacobian r_t^2 v."""
        return self.tilt(self.vjp(v)) if jacobian else self.spread(deviation) * v

    def pull_back(self, v: Tensor, jacobian: bool = True, deviation: float = 1.0) -> Tensor:
        """J^T v; without the Jacobian that of the white prior, J = (alpha_t / sigma_t^2) r_t^2 I."""
        return self.vjp(v) if jacobian else self.t.alpha / self.t.sigma**2 * self.spread(deviation) * v


class Estimate(NamedTuple):
    """The answer of a guidance block.

    Args:
        x0: x0_hat(y), what the step uses and previews show.
        shift: added to x_s / norm_s after the step, that is in variance-preserving coordinates, where the
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

    x_s = alpha_s x0 + sqrt(sigma_s^2 - v^2) eps + v z + norm_s shift, with eps = (x_t - alpha_t x0) / sigma_t.

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


def differentiate(
    denoiser: Callable[[Tensor], Tensor], x_t: Tensor, calls: float = math.inf
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """One forward pass with a graph: x0_hat and the map v to J^T v, J = d x0_hat / d x_t.

    Works under inference mode too, provided that what the denoiser holds are normal tensors.

    Args:
        calls: how often the map will be used; the last time frees the graph as it goes, which is a tenth faster.
    """
    leaf, x0 = traced(denoiser, x_t)

    def vjp(v: Tensor) -> Tensor:
        nonlocal calls
        calls -= 1
        return pulled_back(x0, leaf, v, keep=calls > 0, apart=True)

    return x0.detach(), vjp


def predict(
    denoiser: Callable[[Tensor, Level], Tensor],
    x_t: Tensor,
    t: Level,
    jacobian: bool = False,
    calls: float = math.inf,
    **fields,
) -> State:
    """The State of a plain denoiser `(x_t, t) -> x0_hat` at x_t; `calls` as in `differentiate`."""
    if jacobian:

        def at_level(x: Tensor) -> Tensor:
            return denoiser(x, t)

        x0, vjp = differentiate(at_level, x_t, calls)
        return State(x_t, t, x0, vjp, lambda x: differentiate(at_level, x, 1), **fields)
    return State(x_t, t, denoiser(x_t, t), **fields)
