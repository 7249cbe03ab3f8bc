"""When a block listens, how strongly, and what that costs."""

from __future__ import annotations

import math

import pytest
import torch
from guidance_rows import F64, LEVELS, matrices, measure, one_thread, random_prior  # noqa: F401
from torch import Tensor

from posterior.algebra.refusal import Refusal
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run, combined
from posterior.diffusion.state import predict
from posterior.guidance.dps import DPS
from posterior.guidance.mmps import MMPS
from posterior.guidance.pigdm import PiGDM
from posterior.guidance.timing import SCHEDULES, Timing
from posterior.samplers.ddim import GuidedDDIM


def test_weights_of_the_timing():
    timing = Timing(2.0, 0.25, 0.75, 2)
    assert [timing.weight(i / 8, i) for i in range(8)] == [0, 0, 2, 0, 2, 0, 0, 0]
    shapes = {name: [Timing(1, 0, 1, 1, name).weight(p, 0) for p in (0, 0.25, 0.5)] for name in SCHEDULES}
    assert shapes["rising"] == [0, 0.25, 0.5] and shapes["falling"] == [1, 0.75, 0.5]
    assert shapes["bump"] == pytest.approx([0, 0.5, 1]) and shapes["constant"] == [1, 1, 1]
    with pytest.raises(Refusal, match="before it starts"):
        Timing(1, 0.6, 0.4)


def test_timings_multiply():
    timings = Timing(2.0, end=0.8), Timing(0.5, start=0.25, every=2), Timing(3.0, schedule="rising")
    product = timings[0] * timings[1] * timings[2]
    assert product.strength == 3
    for i in range(8):
        assert product.weight(i / 8, i) == pytest.approx(math.prod(timing.weight(i / 8, i) for timing in timings))


def test_a_block_costs_nothing_where_it_does_not_listen():
    prior = random_prior(4)
    measurement = measure(prior, matrices(4)["mask"], 0.1)
    graphs = []

    def denoiser(x: Tensor, t: Level) -> Tensor:
        graphs.append(x.requires_grad)
        return prior.denoiser(x, t)

    block = DPS(measurement, timing=Timing(start=0.25, end=0.75, every=2))
    levels = [Level(1.0, sigma) for sigma in (4.0, 3.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.0)]
    GuidedDDIM()(Run(denoiser, levels, [block]), torch.randn(1, 1, 4, 4, dtype=F64))
    assert graphs == [False, False, True, False, True, False, False, False]


def test_moment_matching_frees_the_graph_with_its_last_pass():
    prior = random_prior(4)
    block = MMPS(measure(prior, matrices(4)["random"], 0.3), 2)
    state = predict(prior.denoiser, torch.randn(1, 1, 4, 4, dtype=F64), LEVELS["low"], True)
    combined([block, PiGDM(block.measurement)], state, once=True)  # the first of two keeps it for the second
    state = predict(prior.denoiser, torch.randn(1, 1, 4, 4, dtype=F64), LEVELS["low"], True)
    combined([block], state, once=True)
    with pytest.raises(RuntimeError, match="second time"):
        state.vjp(state.x0)


def test_strength_scales_what_a_block_changes():
    prior = random_prior(4)
    measurement = measure(prior, matrices(4)["mask"], 0.1)
    x = torch.randn(1, 1, 4, 4, dtype=F64)
    state = predict(prior.denoiser, x, LEVELS["low"], True)
    for method, field in ((PiGDM, "x0"), (DPS, "shift")):
        base = getattr(combined([], state), field)
        full, half = (getattr(combined([method(measurement, timing=Timing(w))], state), field) for w in (1.0, 0.5))
        torch.testing.assert_close(half - base, (full - base) / 2)
