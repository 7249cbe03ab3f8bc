"""Blind RED-diff (Alkan et al. 2023; https://arxiv.org/abs/2410.00083, 3.2.2): picture and parameters at once.

    min over q(x_0) = delta(x_0 - mu), q(theta) = delta(theta - phi) of KL(q || p(x_0, theta | y))

mu moves as in `samplers.red_diff` at the phi of now, and phi by a step of Adam of its own on norm(y - A_phi(mu))^2 / 2,
to whose scale Adam is blind. A free kernel is the softmax of phi, which keeps it on the simplex.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.run import Run
from .base import Sampler
from .red_diff import first_picture, misfit_gradient
from .unknown import Search, Unknown


@dataclass(frozen=True)
class BlindREDDiff(Sampler):
    """One model call and one step of Adam on mu and on phi at each level.

    Args:
        unknown: what is to be found; its `update` is Adam's here.
        prior: lambda, how much the model weighs against the measurement, > 0.
        rate: of Adam on mu, in units of [-1, 1].
        step: of Adam on phi, phi's unit (pixels, factors, logarithms of a free kernel).
    """

    unknown: Unknown = Unknown()
    prior: float = 0.25
    rate: float = 0.1
    step: float = 0.03

    label = "Blind RED-diff"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        search = Search(self.unknown, run.measurement, x, run.draw.of("unknown"))
        with torch.inference_mode(False), torch.no_grad():
            mu, phi = first_picture(run.measurement, x).clone(), search.theta.clone()
            adam = torch.optim.Adam(
                [{"params": [mu], "lr": self.rate / run.levels[0].scale}, {"params": [phi], "lr": self.step}],
                betas=(0.9, 0.99),
            )
            for i, t, _ in run.walk:
                x_t = t.alpha * mu + t.sigma * run.draw.normal(mu)
                pull = run.prior(x_t, t).clone()
                mu.grad = misfit_gradient(search.measurement(), mu) + self.prior * (mu - pull)
                phi.grad = search.slope(search.picture(mu))
                adam.step()
                phi.copy_(self.unknown.family.bounded(phi))
                search.move(phi)
                run.report(i, x_t, mu.clone(), t)
        run.record.update(search.record())
        last = run.levels[-1]
        return last.alpha * mu + last.sigma * run.draw.normal(mu)
