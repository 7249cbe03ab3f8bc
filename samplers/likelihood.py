"""How likely a picture is under the model: its log-density from the errors of the denoiser.

Kong, Brekelmans and Ver Steeg 2023, https://arxiv.org/abs/2302.03792, by the relation of information and errors.
With x_gamma = x + n / sqrt(gamma), n ~ N(0, I), and d numbers, for any c > 0,

    -log p(x) = d/2 log(2 pi e c) - 1/2 int_0^inf [ d c / (1 + gamma c) - E norm(x - x0_hat(x_gamma))^2 ] d gamma

exactly, where x0_hat is the mean of the posterior; a trained network errs more, so that for it the right side is an
upper bound on average (an ELBO, the denoising loss over all noise levels; cf. the efficient score prior of Feng et al.
2024, https://arxiv.org/abs/2309.01949). Beyond the run's levels the integrand is taken as it is at the first one, and
as that of the plain noise after the last: pictures are told apart down to the noise of the last level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.devices import precise
from ..diffusion.run import Run
from .base import Sampler


@dataclass(frozen=True)
class LogLikelihood(Sampler):
    """The start of the run is the picture (no noise), and so is the end; the record gets the numbers.

    `record["log-density"]`: log p of each sample in the unit of the run, `B`, float64; `record["standard error"]`: of
    it, from the spread of the draws. `record["bits per number"]`, `B`: the same at 8 bits, in steps of 1 / 127.5 of the
    unit of the model, so that a picture without any structure has 8.

    Args:
        draws: noises at each level, a model call each, >= 2.
    """

    draws: int = 4

    label = "Log-likelihood"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        first = run.levels[0]
        x = x * first.inverse_alpha
        c, d = (0.5 / first.scale) ** 2, x[0].numel()  # photographs vary by a half in [-1, 1]
        levels = [level for level in run.levels if level.sigma and level.alpha]
        errors = []  # waited for at the end only
        for i, t in enumerate(levels):
            for _ in range(self.draws):
                x_t = t.alpha * x + t.sigma * run.draw.normal(x)
                x0 = run.prior(x_t, t)
                errors.append(precise(x - x0).square().flatten(1).sum(1))
            run.report(min(i, run.steps - 1), x_t, x0, t)
        gammas = torch.tensor([1 / t.sigma_bar**2 for t in levels], dtype=torch.float64)
        seen = torch.stack(errors).cpu().double().unflatten(0, (len(levels), self.draws))
        integral = self._integral(d * c / (1 + gammas[:, None, None] * c) - seen, gammas, d, c)
        each = integral / 2 - d / 2 * math.log(2 * math.pi * math.e * c)  # of each draw and sample
        log_density = each.mean(0)
        run.record["log-density"] = log_density
        run.record["standard error"] = each.std(0) / self.draws**0.5
        run.record["bits per number"] = math.log2(127.5 * first.scale) - log_density / (d * math.log(2))
        return run.levels[-1].alpha * x

    @staticmethod
    def _integral(excess: Tensor, gammas: Tensor, d: int, c: float) -> Tensor:
        """Of `K ...` over gamma: constant first, trapezoids in log gamma, d (c / (1 + gamma c) - 1 / gamma) last."""
        weighed = excess * gammas[:, None, None]
        between = ((weighed[1:] + weighed[:-1]) / 2 * gammas.log().diff()[:, None, None]).sum(0)
        last = gammas[-1].item()
        return gammas[0] * excess[0] + between - d * math.log1p(1 / (last * c))
