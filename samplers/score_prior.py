"""Score prior (Feng et al. 2023), https://arxiv.org/abs/2304.11751, in its efficient form (Feng and Bouman 2024),
https://arxiv.org/abs/2309.01949: a normalising flow is trained until its samples are the posterior's.

    q = law of x = G(z), z ~ N(0, I), G a RealNVP (https://arxiv.org/abs/1605.08803)
    min over G of    E_z[ -log p(y given x) - b(x) - log det dG/dz ],    that is KL(q, p(. given y)) for b = log p

b is the log-density by the denoiser's errors (`samplers.likelihood`), a bound of log p for a trained network. With
g = 1 / sigma_bar^2, uniform in log g over a range of length R, and e = x - x0_hat(alpha x + sigma n),

    b(x) = const - 1/2 int norm(e)^2 dg,    grad b = -R g (e - alpha J^T e)    from one level and one noise

so that an iteration takes a forward and a backward pass for each of its pictures; the levels of successive iterations
are spread evenly (golden ratio). The papers train 20000 iterations of 64 pictures and 32 couplings, with clipped
gradients; here the couplings are small perceptrons, for pictures up to 64 x 64, around a mean and a scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..algebra.refusal import Refusal
from ..algebra.streams import Streams
from ..diffusion.run import Run
from ..measurement.measurement import Measurement
from .base import Sampler
from .red_diff import first_picture

#: numbers of a picture up to which a flow of perceptrons is sensible
MOST = 3 * 64 * 64
WIDTH = 128


class RealNVP:
    """G: couplings of random halves around a mean and a scale; the identity around them at first.

    Args:
        mean: `1 C H W`, where it starts.
        deviation: how wide it starts.
        couplings: how many, 0 for a diagonal Gaussian.
        draw: of one sample.
    """

    def __init__(self, mean: Tensor, deviation: float, couplings: int, draw: Streams):
        self.shape, d = mean.shape[1:], mean.numel()

        def random(*shape: int) -> Tensor:
            return draw.normal(mean.new_empty(1, *shape))[0] / shape[-1] ** 0.5

        self.masks, self.layers = [], []
        for k in range(couplings):
            if k % 2 == 0:
                order = random(d).argsort()
            mask = mean.new_zeros(d)
            mask[order[: d // 2] if k % 2 else order[d // 2 :]] = 1
            self.masks.append(mask)
            self.layers.append([random(WIDTH, d), random(WIDTH, WIDTH), mean.new_zeros(2 * d, WIDTH)])
        self.mean, self.log_scale = mean.flatten().clone(), mean.new_full((d,), math.log(deviation))
        self.parameters = [self.mean, self.log_scale, *(w for layer in self.layers for w in layer)]

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """G(z), `B C H W`, and log det dG/dz, `B`."""
        u, log_det = z.flatten(1), self.log_scale.sum()
        for mask, (first, second, third) in zip(self.masks, self.layers, strict=True):
            hidden = F.silu(F.linear(F.silu(F.linear(mask * u, first)), second))
            scale, shift = F.linear(hidden, third).chunk(2, 1)
            scale = (1 - mask) * scale.tanh()
            u = u * scale.exp() + (1 - mask) * shift
            log_det = log_det + scale.sum(1)
        x = self.mean + self.log_scale.exp() * u
        return x.reshape(-1, *self.shape), log_det


@dataclass(frozen=True)
class ScorePrior(Sampler):
    """Trains the flow between the run's highest and lowest level, and draws the samples from it.

    Args:
        iterations: steps of Adam, whose rate falls to nothing.
        batch: pictures of an iteration, a forward and a backward pass each.
        rate: of Adam.
        couplings: of the flow; 0 is a diagonal Gaussian.
    """

    iterations: int = 2000
    batch: int = 16
    rate: float = 0.002
    couplings: int = 8

    label = "Score prior"
    jacobian = True

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        measurement = run.measurement.resolved()
        if not measurement.noisy:
            raise Refusal(f"{self.label} needs a noise level above 0: without noise there is no spread to learn.")
        if x[0].numel() > MOST:
            raise Refusal(f"{self.label} is for pictures up to 64 x 64; choose PnP-DM for larger ones.")
        z, last = run.draw.normal(x), run.levels[-1]
        with torch.inference_mode(False), torch.no_grad():
            count = len(measurement.y)
            each = [measurement.take(torch.tensor([i])) for i in range(count)] if count > 1 else [measurement]
            flows = [self._trained(run, one, x, k, len(each)) for k, one in enumerate(each)]
            x0 = torch.cat([flow(part.clone())[0] for flow, part in zip(flows, z.chunk(len(each)), strict=True)])
        return last.alpha * x0 + last.sigma * run.draw.normal(x0)

    def _trained(self, run: Run, measurement: Measurement, x: Tensor, part: int, parts: int) -> RealNVP:
        draw = Streams(run.draw.seed, f"{run.draw.purpose}/score prior")  # the same whatever batch asks for it
        flow = RealNVP(first_picture(measurement, x[:1]).clone(), 0.25 / run.levels[0].scale, self.couplings, draw)
        adam = torch.optim.Adam(flow.parameters, lr=self.rate)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.iterations)
        residuals, told = run.record.setdefault("residual / noise", []), -1
        for parameter in flow.parameters:
            parameter.requires_grad_()
        for k in range(self.iterations):
            with torch.enable_grad():
                pictures, log_det = flow(draw.normal(x.new_empty(self.batch, *x.shape[1:])))
            gradient, x_t, x0, t = self._gradient(run, measurement, pictures.detach(), k, draw)
            with torch.enable_grad():
                loss = (pictures * gradient).sum() / self.batch - log_det.mean()
                loss.backward()
            adam.step()
            adam.zero_grad()
            decay.step()
            step = (part * self.iterations + k) * run.steps // (parts * self.iterations)
            if step != told:
                residuals.append(measurement.fit(pictures.detach()).mean().item())
                run.report(step, x_t, x0, t)
                told = step
        return flow

    def _gradient(self, run: Run, measurement: Measurement, x: Tensor, k: int, draw: Streams):
        """-grad (log p(y given x) + b(x)); and what the model was asked, and answered."""
        high, low = run.levels[0].sigma_bar, run.levels[-2].sigma_bar
        high = min(high, 100 / run.levels[0].scale)  # beyond it b does not change
        share = (0.5 + k * (math.sqrt(5) - 1) / 2) % 1
        t = run.schedule.at(low * (high / low) ** share, run.levels[0].scale)
        x_t = t.alpha * x + t.sigma * draw.normal(x)
        x0, vjp = run.prior.linearise(x_t, t)
        error = x - x0
        pull = 2 * math.log(high / low) / t.sigma_bar**2 * (error - t.alpha * vjp(error, last=True))
        y, pull_back = measurement.operator.linearise(x)
        return pull - pull_back(measurement.noise.score(measurement.y - y, measurement.y)), x_t, x0, t
