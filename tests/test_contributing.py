"""What CONTRIBUTING.md shows is code that works, and as short as it says."""

from __future__ import annotations

import re
import runpy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from guidance_rows import matrices, measure, random_prior

from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.diffusion.state import Estimate
from posterior.guidance.base import Guidance
from posterior.guidance.tmpd import TMPD
from posterior.operators.spectral import SpectralOperator
from posterior.samplers.annealed import AnnealedRestoration
from posterior.samplers.base import Sampler

TEXT = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The classes of the examples."""
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 3 and all(len(block.splitlines()) < 30 for block in blocks)
    names = {
        "SpectralOperator": SpectralOperator, "Guidance": Guidance, "Estimate": Estimate, "Sampler": Sampler,
        "dataclass": dataclass, "torch": torch,
    }  # fmt: skip
    file = tmp_path_factory.mktemp("contributing") / "shown.py"
    file.write_text("\n".join(blocks), encoding="utf-8")
    return runpy.run_path(str(file), names)


def test_the_operator(shown):
    operator, x = shown["Flip"](), torch.rand(2, 3, 5, 4, dtype=torch.float64)
    y = operator.forward(x)
    assert torch.equal(y, x.flip(-2)) and torch.equal(operator.pinv(y), x) and torch.equal(operator.adjoint(y), x)


def test_the_block_and_the_sampler_are_ours(shown):
    prior = random_prior(4)
    measurement = measure(prior, matrices(4)["random"], 0.3)
    levels = [Level(1.0, sigma) for sigma in (2.0, 1.0, 0.3, 0.0)]
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ends = [
        sampler()(Run(prior.denoiser, levels, [block(measurement)]), x)
        for sampler, block in ((shown["AnnealedRestoration"], shown["TMPD"]), (AnnealedRestoration, TMPD))
    ]
    assert torch.equal(*ends)


def test_every_path_that_it_names_exists():
    root = Path(__file__).resolve().parent.parent
    for path in set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.[a-z]+)`", TEXT)):
        assert (root / path).is_file(), path
