"""Simulation-based calibration: can the spread of a method's samples be trusted?

Pictures are drawn from a prior, measured, and sampled back (Talts et al. 2018, https://arxiv.org/abs/1804.06788). If
the samples have the posterior the truth is just one more of them: its rank among them, in any projection, is uniform.
Hundreds of problems on three priors with known denoisers: a Gaussian of four pixels and a mixture of two of which half
is measured, and a smooth texture of 4 x 4 pixels with a hole. For each method

    p         chi-squared test of the ranks in all projections (0.001 and less: not uniform)
    50, 90    how often the truth lies within the central 50 % and 90 % of the samples, in percent
    spread    standard deviation of the samples over that of the truth around their mean: 1 is right, less is too
              certain, more is too vague

    python3 dev.py bench calibration [--quick] [--plot FILE]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..algebra.streams import SharedStreams
from ..diffusion.level import Level
from ..diffusion.run import Run
from ..diffusion.state import DenoiserPrior
from ..guidance.base import Guidance
from ..guidance.ddnm import DDNM
from ..guidance.ddrm import DDRM
from ..guidance.dds import DDS
from ..guidance.diffpir import DiffPIR
from ..guidance.dps import DPS, DPSGaussian
from ..guidance.mmps import MMPS
from ..guidance.pigdm import PiGDM
from ..guidance.projection import NoisedProjection
from ..guidance.score_ald import ScoreALD
from ..guidance.snips import SNIPS
from ..guidance.tmpd import TMPD
from ..measurement.measurement import Measurement
from ..measurement.noise import GaussianNoise
from ..operators.base import Operator
from ..operators.dense import Dense
from ..operators.inpainting import Inpainting
from ..priors.gaussian import Gaussian
from ..priors.mixture import GaussianMixture
from ..samplers.base import Sampler
from ..samplers.daps import DAPS
from ..samplers.dcps import DCPS
from ..samplers.ddim import GuidedDDIM
from ..samplers.ddsmc import DDSMC
from ..samplers.fps import FPS
from ..samplers.langevin import PredictorCorrector
from ..samplers.matched import MatchedTDS
from ..samplers.mcgdiff import MCGDiff
from ..samplers.mgps import MGPS
from ..samplers.pmc import PMC
from ..samplers.split_gibbs import SplitGibbs
from ..samplers.tds import TDS

#: samples of each problem, so that the truth has one of twenty ranks
DRAWS = 19
F64 = torch.float64
EVERYWHERE = ("Gaussian", "mixture", "hole")
Block = Callable[[Measurement], Guidance]
ROOMY = 10**7


@dataclass(frozen=True)
class Method:
    """How it samples, how it listens, on which priors it should be calibrated, and on which it is tried."""

    sampler: Sampler
    block: Block = Guidance
    exact: tuple[str, ...] = ()
    tried: tuple[str, ...] = EVERYWHERE


ANCESTRAL = GuidedDDIM(1.0)
FEW = ("Gaussian", "mixture")
METHODS: dict[str, Method] = {
    "TDS, matched": Method(MatchedTDS(8, batch=ROOMY), exact=FEW, tried=FEW),
    "TDS, Pi-GDM": Method(TDS(16, batch=ROOMY), PiGDM, exact=EVERYWHERE),
    "TDS, unguided": Method(TDS(32, batch=ROOMY), exact=FEW, tried=FEW),
    "DDSMC": Method(DDSMC(16, batch=ROOMY), exact=EVERYWHERE),
    "MCGDiff": Method(MCGDiff(16, batch=ROOMY), tried=FEW),
    "FPS-SMC": Method(FPS(16, batch=ROOMY), tried=FEW),
    "PnP-DM": Method(SplitGibbs(inner=8, hold=20), exact=EVERYWHERE),
    "DAPS": Method(DAPS(deviation=1.0)),
    "PMC": Method(PMC()),
    "MGPS": Method(MGPS()),
    "DCPS": Method(DCPS()),
    "MMPS": Method(ANCESTRAL, lambda m: MMPS(m, 30), exact=("Gaussian", "hole")),
    "MMPS, predictor-corrector": Method(PredictorCorrector(), lambda m: MMPS(m, 4)),
    "TMPD": Method(ANCESTRAL, TMPD),
    "Pi-GDM": Method(ANCESTRAL, PiGDM),
    "DPS": Method(ANCESTRAL, lambda m: DPS(m, 0.5)),
    "DPS, Gaussian form": Method(ANCESTRAL, DPSGaussian),
    "Score-ALD": Method(ANCESTRAL, ScoreALD),
    "Noised projection": Method(ANCESTRAL, NoisedProjection),
    "DDRM": Method(ANCESTRAL, DDRM),
    "DDNM+": Method(ANCESTRAL, DDNM),
    "DDNM+, smooth": Method(ANCESTRAL, lambda m: DDNM(m, smooth=True), tried=("hole",)),
    "DDS": Method(ANCESTRAL, DDS),
    "SNIPS": Method(ANCESTRAL, SNIPS),
    "DiffPIR": Method(GuidedDDIM(1.0, "zeta"), DiffPIR),
    "DiffPIR, smooth": Method(GuidedDDIM(1.0, "zeta"), lambda m: DiffPIR(m, smooth=True), tried=("hole",)),
    "DiffPIR as a draw": Method(GuidedDDIM(1.0, "zeta"), lambda m: DiffPIR(m, draw=True)),
}


def gaussian_problem() -> tuple[Gaussian, Operator, float]:
    """A prior of four pixels of very different spread, two numbers measured of it, and their noise."""
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(4, 4, generator=g, dtype=F64))[0]
    mean, variances = torch.randn(1, 2, 2, generator=g, dtype=F64), torch.tensor([0.05, 0.3, 1.0, 2.0], dtype=F64)
    return Gaussian(mean, variances, basis), Dense(torch.randn(2, 4, generator=g, dtype=F64) / 2, (1, 2, 2)), 0.3


def mixture_problem() -> tuple[GaussianMixture, Operator, float]:
    """Three components of two pixels, and one number measured that tells them apart half and half."""
    centres = torch.tensor([[2.0, 0.5], [-2.0, 1.5], [0.5, -2.0]], dtype=F64).reshape(3, 1, 1, 2)
    prior = GaussianMixture.from_centres(centres, 0.5, torch.tensor([0.5, 0.2, 0.3]))
    return prior, Dense(torch.tensor([[0.6, 0.8]], dtype=F64), (1, 1, 2)), 0.5


def hole_problem() -> tuple[Gaussian, Operator, float]:
    """A smooth texture, covariance exp(-d^2 / 4) and a grain, with a hole of 2 x 2 pixels."""
    place = torch.cartesian_prod(torch.arange(4.0, dtype=F64), torch.arange(4.0, dtype=F64))
    covariance = (-(torch.cdist(place, place) ** 2) / 4).exp() + 0.01 * torch.eye(16, dtype=F64)
    hole = torch.zeros(1, 1, 4, 4, dtype=F64)
    hole[..., 1:3, 2:] = 1
    return Gaussian.from_covariance(torch.zeros(1, 4, 4, dtype=F64), covariance), Inpainting(hole), 0.2


PRIORS = {"Gaussian": gaussian_problem, "mixture": mixture_problem, "hole": hole_problem}


def draws_of(prior, count: int) -> Tensor:
    """Independent pictures of the prior, `count C H W`."""
    g = torch.Generator().manual_seed(1)
    parts = getattr(prior, "components", [prior])
    weights = getattr(prior, "weights", torch.ones(1, dtype=F64))
    chosen = torch.multinomial(weights, count, replacement=True, generator=g)
    z = torch.randn(count, *parts[0].mean.shape, generator=g, dtype=F64)
    each = torch.stack([part.mean + part.filter(z, torch.sqrt) for part in parts])
    return each[chosen, torch.arange(count)]


def levels(steps: int) -> list[Level]:
    """Exploding levels in equal ratios from 25 to 0.03, and 0."""
    return [*(Level(1.0, 25.0 * (0.03 / 25.0) ** (i / (steps - 1))) for i in range(steps)), Level(1.0, 0.0)]


def sampled(method: Method, prior, measurement: Measurement, steps: int, problems: int) -> Tensor:
    """`problems DRAWS d`: samples of every problem, all in one run."""
    index = torch.arange(problems).repeat_interleave(DRAWS)
    draw = SharedStreams(2, "calibration", len(index))
    walk = levels(steps)
    start = walk[0].sigma * draw.of("start").normal(torch.zeros(len(index), *measurement.image_shape, dtype=F64))
    run = Run(DenoiserPrior(prior.denoiser), walk, [method.block(measurement.take(index))], draw)
    with torch.no_grad():
        return method.sampler(run, start).flatten(1).unflatten(0, (problems, DRAWS))


@dataclass(frozen=True)
class Calibration:
    """What the ranks say. ranks: `problems projections`; see the head of this file for the others."""

    ranks: Tensor
    spread: float

    @property
    def histogram(self) -> Tensor:
        return self.ranks.flatten().bincount(minlength=DRAWS + 1)

    @property
    def p(self) -> float:
        """Of the worst projection, times their number (Bonferroni)."""
        expected = len(self.ranks) / (DRAWS + 1)
        counts = torch.stack([column.bincount(minlength=DRAWS + 1) for column in self.ranks.T]).double()
        chi2 = ((counts - expected) ** 2 / expected).sum(1).max()
        tail = torch.special.gammaincc(torch.tensor(DRAWS / 2, dtype=F64), chi2 / 2)
        return min(1.0, tail.item() * len(counts))

    def coverage(self, share: float) -> float:
        """How often the truth has one of the `share` ranks in the middle, in percent."""
        out = round((1 - share) / 2 * (DRAWS + 1))
        return 100 * ((self.ranks >= out) & (self.ranks <= DRAWS - out)).double().mean().item()

    @property
    def words(self) -> str:
        if self.p > 1e-3:
            return "calibrated"
        lean = self.ranks.double().mean(0).sub(DRAWS / 2).abs().max().item() / DRAWS
        bent = "too certain" if self.coverage(0.5) < 47 else "too vague" if self.coverage(0.5) > 53 else ""
        moved = "off centre" if lean > 0.03 else ""
        return ", ".join(part for part in (bent, moved) if part) or "of another shape"


def calibrate(method: Method, name: str, problems: int, steps: int) -> Calibration:
    prior, operator, sigma = PRIORS[name]()
    truth = draws_of(prior, problems)
    measurement = Measurement.simulate(operator, truth, GaussianNoise(sigma), 3)
    x = sampled(method, prior, measurement, steps, problems)
    directions = torch.randn(4, *truth.shape[1:], dtype=F64, generator=torch.Generator().manual_seed(4))
    # two of them are measured, and of two what is measured is taken out
    seen = operator.pinv(operator.forward(directions))
    directions = torch.cat([seen[:2], directions[2:] - seen[2:]]).flatten(1).T
    truth = truth.flatten(1)
    ranks = (x @ directions < (truth @ directions)[:, None]).sum(1)
    error = (truth - x.mean(1)).square().sum() / (1 + 1 / DRAWS)
    return Calibration(ranks, (x.var(1).sum() / error).sqrt().item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 problems of 40 steps instead of 500 of 60")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", help="methods whose name holds this")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where to draw the histograms of the ranks")
    options = parser.parse_args()
    problems, steps = (100, 40) if options.quick else (options.problems, options.steps)
    rows, histograms = [], {}
    for name, method in METHODS.items():
        if options.only and options.only not in name:
            continue
        for prior in method.tried:
            found = calibrate(method, prior, problems, steps)
            row = {"method": name, "prior": prior, "p": found.p, "spread": found.spread, "words": found.words}
            rows.append(row | {"50": found.coverage(0.5), "90": found.coverage(0.9)})
            histograms[name, prior] = (found.histogram / found.histogram.sum()).tolist()
            print(
                f"{name:26s} {prior:9s} p {found.p:8.1e}  50 %: {rows[-1]['50']:4.0f}  90 %: {rows[-1]['90']:4.0f}  "
                f"spread {found.spread:5.2f}  {found.words}", flush=True,
            )  # fmt: skip
    if options.plot:
        plot(histograms, options.plot)
    print(json.dumps({"problems": problems, "steps": steps, "rows": rows}))


def plot(histograms: dict[tuple[str, str], list[float]], path: Path) -> None:
    """Bars of the ranks of every method, Gaussian, mixture and hole, flat where the line is."""
    from PIL import Image, ImageDraw, ImageFont

    names = list(dict.fromkeys(name for name, _ in histograms))
    columns = 2 if len(names) > 6 else 1
    width, height, high = 490, 92, 3 / (DRAWS + 1)
    sheet = Image.new("RGB", (columns * width, math.ceil(len(names) / columns) * height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, name in enumerate(names):
        left, top = place % columns * width, place // columns * height
        pen.text((left + 10, top + 6), name, "#212529", font)
        for k, prior in enumerate(PRIORS):
            x, base = left + 10 + 160 * k, top + height - 8
            for i, share in enumerate(histograms.get((name, prior), ())):
                bar = min(share / high, 1) * (height - 36)
                pen.rectangle((x + 7 * i, base - bar, x + 7 * i + 5, base), ("#1f6feb", "#d9480f", "#2b8a3e")[k])
            flat = base - (height - 36) / 3
            pen.line((x, flat, x + 7 * (DRAWS + 1), flat), "#212529")
    sheet.save(path)


if __name__ == "__main__":
    main()
