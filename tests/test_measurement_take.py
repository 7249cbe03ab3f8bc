"""Some samples of a measurement, as particles and chunks need them: each keeps its own mask, noise and y."""

from __future__ import annotations

import pytest
import torch

from posterior.algebra.streams import Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.guidance.ddnm import DDNM
from posterior.guidance.ddpg import DDPG
from posterior.guidance.dps import DPS
from posterior.guidance.reach import ReachingPiGDM
from posterior.measurement.measurement import Measurement, combine
from posterior.measurement.noise import GaussianNoise
from posterior.operators.compose import compose
from posterior.operators.convolution import convolution
from posterior.operators.inpainting import Inpainting
from posterior.operators.kernels import gaussian

F64 = torch.float64


def masked(batch: int) -> Measurement:
    g = torch.Generator().manual_seed(0)
    masks = (torch.rand(batch, 1, 8, 8, generator=g) < 0.4).double()
    sigma = 0.1 + 0.1 * torch.rand(batch, 1, 8, 8, generator=g, dtype=F64)
    return Measurement.simulate(
        Inpainting(masks).to("cpu", F64), torch.rand(batch, 3, 8, 8, generator=g, dtype=F64), GaussianNoise(sigma), 1
    )


def blurred(batch: int) -> Measurement:
    """A mask for each behind one blur."""
    one = masked(batch)
    operator = compose(one.operator, convolution(gaussian(0.5).double(), "circular"))
    return Measurement(operator, one.y, GaussianNoise(0.1))


@pytest.mark.parametrize("make", [masked, blurred, lambda n: combine([masked(n), blurred(n)])])
def test_a_sample_s_share_is_its_own(make):
    whole, x = make(3), torch.rand(3, 3, 8, 8, dtype=F64, generator=torch.Generator().manual_seed(2))
    index = torch.tensor([2, 0, 2])
    some = whole.take(index)
    torch.testing.assert_close(some.residual(x[index]), whole.residual(x)[index])
    torch.testing.assert_close(some.fit(x[index]), whole.fit(x)[index])
    alone = whole.take(torch.tensor([1]))
    assert alone.operator.batch == 1 and len(alone.y) == 1
    torch.testing.assert_close(alone.fit(x[1:2]), whole.fit(x)[1:2])


@pytest.mark.parametrize("method", [DPS, DDNM, DDPG, ReachingPiGDM])
def test_a_block_of_some_samples(method):
    """Also of one that has worked out what it needs of all."""
    block, x = method(masked(3)), torch.rand(3, 3, 8, 8, dtype=F64, generator=torch.Generator().manual_seed(2))
    t, index = Level(1.0, 0.5), torch.tensor([2, 2, 1])

    def guided(block, x):
        return Run(lambda x, t: 0.8 * x.tanh(), [t, Level(1.0, 0.2)], [block], Streams(0, "test")).guided(x, t, t)

    expected, got = guided(block, x), guided(block.take(index), x[index])
    torch.testing.assert_close(got.x0, expected.x0[index])
    if isinstance(expected.shift, torch.Tensor):
        torch.testing.assert_close(got.shift, expected.shift[index])
