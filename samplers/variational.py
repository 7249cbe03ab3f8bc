"""A Gaussian variational posterior, q(x_0) = N(mu, diag(s^2)), fitted through the model's score.

    min over mu, s of    E_q[-log p(y given x_0)] + KL(q_t, p_t),    q_t: x_t = alpha_t x_0 + sigma_t n with x_0 ~ q

whose gradients need the score of p_t only. With x_0 = mu + s z and score = (alpha_t x0_hat - x_t) / sigma_t^2,

    g        = -grad log p(y given x_0) - alpha_t score(x_t)
    d mu     = E[g],    d log s = E[s z g] - alpha_t^2 s^2 / (alpha_t^2 s^2 + sigma_t^2)

(the last term is the entropy of q_t). As t falls KL(q_t, p_t) becomes KL(q, p), variational inference proper; the
higher levels make its landscape smooth on the way. RED-diff (Mardani et al. 2024, https://arxiv.org/abs/2305.04391) is
the limit s = 0. For a Gaussian posterior of precision P the optimum is mu = its mean and s_i^2 = 1 / P_ii, at most the
marginal variance: what depends on other pixels is not seen by a diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from ..diffusion.level import Level
from ..diffusion.run import Run
from ..measurement.measurement import Measurement
from .base import Sampler
from .red_diff import first_picture


@dataclass(frozen=True)
class VariationalGaussian(Sampler):
    """`inner` steps of Adam at each level, a model call each; the deviation s goes to the record.

    Args:
        inner: steps at each level, >= 1.
        hold: further steps at the last level, with a rate that falls to nothing.
        rate: of Adam, in units of [-1, 1].
        answer: the mean of q, or a draw of it.
    """

    inner: int = 10
    hold: int = 100
    rate: float = 0.05
    answer: Literal["mean", "sample"] = "mean"

    label = "Variational Gaussian"

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        measurement = run.measurement.resolved()
        if not measurement.noisy:
            raise Refusal(f"{self.label} needs a noise level above 0: without noise there is no spread to fit.")
        mu, scale = first_picture(measurement, x), run.levels[0].scale
        walk = [level for level in run.levels[:-1] for _ in range(self.inner)]
        held = [run.levels[-2]] * self.hold
        with torch.inference_mode(False), torch.no_grad():
            mu, log_s = mu.clone(), torch.full_like(mu, -1.5) - torch.tensor(scale).log().item()
            adam = torch.optim.Adam([mu, log_s], lr=self.rate / scale, betas=(0.9, 0.99))
            for k, t in enumerate([*walk, *held]):
                adam.param_groups[0]["lr"] = self.rate / scale * min(1.0, 1 - (k - len(walk)) / (self.hold + 1))
                mu.grad, log_s.grad = self._gradients(run, measurement, mu, log_s, t)
                adam.step()
                if k % self.inner == self.inner - 1 and k < len(walk):
                    run.report(k // self.inner, t.alpha * mu, mu.clone(), t)
        run.record["standard deviation"] = log_s.exp()
        last = run.levels[-1]
        x0 = mu if self.answer == "mean" else mu + log_s.exp() * run.draw.normal(mu)
        return last.alpha * x0 + last.sigma * run.draw.normal(x0)

    def _gradients(
        self, run: Run, measurement: Measurement, mu: Tensor, log_s: Tensor, t: Level
    ) -> tuple[Tensor, Tensor]:
        s, z = log_s.exp(), run.draw.normal(mu)
        x0 = mu + s * z
        x_t = t.alpha * x0 + t.sigma * run.draw.normal(mu)
        score = (t.alpha * run.prior(x_t, t) - x_t) / t.sigma**2
        y, pull_back = measurement.operator.linearise(x0)
        data = pull_back(measurement.noise.score(measurement.y - y, measurement.y))
        g = -data - t.alpha * score
        spread = (t.alpha * s) ** 2
        return g, s * z * g - spread / (spread + t.sigma**2)
