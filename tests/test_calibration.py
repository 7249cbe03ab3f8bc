"""Simulation-based calibration of the methods that claim to be exact, and of some whose bias is known."""

from __future__ import annotations

import pytest
import torch
from guidance_rows import one_thread  # noqa: F401

from posterior.benchmarks.calibration import DRAWS, METHODS, Calibration, calibrate

EXACT = [(name, prior) for name, method in METHODS.items() for prior in method.exact if prior != "hole"]


@pytest.mark.parametrize("name, prior", EXACT)
def test_exact_methods_are_calibrated(name, prior):
    """Ranks of the truth among the samples are uniform; 5 sigma of 120 problems and what 60 steps leave."""
    found = calibrate(METHODS[name], prior, 120, 60)
    assert found.p > 1e-4, found.histogram
    assert abs(found.coverage(0.5) - 50) < 14 and abs(found.coverage(0.9) - 90) < 10


@pytest.mark.parametrize("name", ["FPS-SMC", "DDNM+", "DDRM"])
def test_the_others_are_too_certain(name):
    found = calibrate(METHODS[name], "Gaussian", 120, 60)
    assert found.p < 1e-4 and found.coverage(0.9) < 80 and "too certain" in found.words


def test_ranks_that_are_uniform_and_ranks_that_are_not():
    g = torch.Generator().manual_seed(0)
    flat = torch.randint(DRAWS + 1, (500, 4), generator=g)
    assert Calibration(flat, 1.0).p > 1e-3 and Calibration(flat, 1.0).words == "calibrated"
    assert abs(Calibration(flat, 1.0).coverage(0.5) - 50) < 4 and abs(Calibration(flat, 1.0).coverage(0.9) - 90) < 3
    bent = (flat - DRAWS / 2).mul(1.4).add(DRAWS / 2).round().clamp(0, DRAWS).long()
    assert "too certain" in Calibration(bent, 1.0).words
    assert Calibration(flat // 2 + 5, 1.0).words == "too vague"
    assert "off centre" in Calibration(flat * 3 // 4, 1.0).words
