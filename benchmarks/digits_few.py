"""Half-masked digits by the methods for flow models and for few steps; see `digits --few`.

The digits prior as a flow model (`priors.flow`) and its form for few steps (`priors.flow_digits`), flow steps with
SD3's shift of 3 from pure noise, 4, 8 and 28 model calls; and DDNM with 30 calls of the prior as it was trained, with
ancestral steps. Two start from the rough inverse too, at t = 0.75, chosen from 1, 0.87 and 0.75 on 60 training digits;
nothing else was tuned. Beside it how many digits are as clear as 90 % of the true ones when the models draw them by
themselves, all noise fresh, in 2 and 4 calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..algebra.streams import Streams
from ..diffusion.level import Level
from ..diffusion.run import Run
from ..diffusion.schedule import Schedule
from ..guidance.base import Guidance
from ..guidance.ddnm import DDNM
from ..measurement.measurement import Measurement
from ..priors.flow import GrayFlow
from ..samplers.base import Sampler
from ..samplers.ddim import GuidedDDIM
from ..samplers.flair import FLAIR
from ..samplers.flow_dps import TRIPS, FlowDPS
from ..samplers.latino import LATINO
from .few_steps import flow_levels
from .prior import ROOT, Prior, sample

#: file, model calls
FLOWS = {"flow": ("digits_prior.safetensors", (4, 8, 28)), "few-step": ("digits_few.safetensors", (4, 8))}
#: all noise of a step is new, as consistency models are sampled
AFRESH = GuidedDDIM(1.0, "zeta")
#: sampler, guidance, time of the first step before the shift
METHODS = {
    "LATINO": (LATINO(), Guidance, 1.0), "FlowDPS": (FlowDPS(), Guidance, 1.0), "TriPS-T": (TRIPS, Guidance, 1.0),
    "FLAIR": (FLAIR(), Guidance, 1.0), "DDNM": (GuidedDDIM(1.0), DDNM, 1.0),
    "LATINO from 0.75": (LATINO(), Guidance, 0.5), "FLAIR from 0.75": (FLAIR(), Guidance, 0.5),
}  # fmt: skip


def flow_prior(file: str) -> Prior:
    """A flow model of RGB digits on pictures in [0, 1]."""
    weights = {f"gray.{key}": value.float() for key, value in load_file(ROOT / "priors" / file).items()}
    network = GrayFlow(**GrayFlow.config_from_state_dict(weights)).eval().requires_grad_(False)
    network.load_state_dict(weights)

    def prior(u: Tensor, t: Level) -> Tensor:
        x, time = 2 * u - t.alpha, u.new_tensor([t.flow_time])
        return (x - time * network(x, time) + 1) / 2

    return prior


def few_rows(
    diffusion: Prior, measurement: Measurement, half: str, agreement: Callable[[Tensor], float]
) -> list[dict[str, Any]]:
    """The share of digits that are read right, printed as it comes."""
    rows, shape = [], tuple(measurement.y.shape)

    def note(estimate: str, x: Tensor) -> None:
        row = {"task": f"digits, {half} filled", "estimate": f"one sample ({estimate}", "agreement": agreement(x)}
        rows.append(row)
        print(row, flush=True)

    note("DDNM), 30 calls", sample(diffusion, DDNM(measurement), shape, 30))
    for model, (file, counts) in FLOWS.items():
        prior = flow_prior(file)
        for steps in counts:
            for name, (sampler, block, start) in METHODS.items():
                x = sampled(prior, [block(measurement)], sampler, flow_levels(steps, start=start), shape)
                note(f"{name}, {model}), {steps} calls", x)
    return rows


def drawn_rows(shape: tuple[int, ...], clear: Callable[[Tensor], float]) -> list[dict[str, Any]]:
    """The share of drawn digits that are clear, printed as it comes."""
    rows = []
    for model, (file, _) in FLOWS.items():
        for steps in (2, 4):
            x = sampled(flow_prior(file), [], AFRESH, flow_levels(steps), shape)
            rows.append({"task": "digits, drawn", "estimate": f"{model}, {steps} calls", "share": clear(x)})
            print(rows[-1], flush=True)
    return rows


def sampled(
    prior: Prior, blocks: list[Guidance], sampler: Sampler, levels: list[Level], shape: tuple[int, ...]
) -> Tensor:
    """levels: of a flow model, in its own unit."""
    levels = [Level(alpha, sigma / 2, 2.0) for alpha, sigma, _ in levels]
    run = Run(prior, levels, blocks, Streams(0, "sampling", shape[0]), schedule=Schedule("flow"))
    return sampler(run, run.draw.normal(torch.zeros(shape)) / 2)
