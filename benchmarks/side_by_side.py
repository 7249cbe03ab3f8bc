"""One problem of the embedded prior, and two jobs on it that take turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..measurement.measurement import Measurement
from ..measurement.noise import GaussianNoise
from ..operators.inpainting import Inpainting
from ..photos import load_photo
from ..priors.unet import PhotoUNet

SIGMA_Y = 0.05


def photo_network() -> PhotoUNet:
    file = Path(__file__).parent.parent / "priors" / "photo_prior.safetensors"
    weights = {key: value.float() for key, value in load_file(file).items()}
    network = PhotoUNet(**PhotoUNet.config_from_state_dict(weights)).eval().requires_grad_(False)
    network.load_state_dict(weights)
    return network


def photo_measurement(size: int) -> Measurement:
    """A photo of which a random half of the pixels is lost, with noise."""
    picture = load_photo("chelsea", size).movedim(-1, 1)
    lost = (torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    return Measurement.simulate(Inpainting(lost), picture, GaussianNoise(SIGMA_Y), 0)


def ratio_of_times(ours: Callable[[], object], other: Callable[[], object], repeats: int) -> tuple[float, list[float]]:
    """Median, and least and most, of our time over the other's; the two take turns, and turns at being first."""
    ratios = []
    for k in range(repeats):
        jobs = (other, ours) if k % 2 else (ours, other)
        taken = {job: seconds(job) for job in jobs}
        ratios.append(taken[ours] / taken[other])
    return statistics.median(ratios), [min(ratios), max(ratios)]


def in_words(ratio: float, spread: list[float]) -> str:
    return f"{ratio:5.2f} ({spread[0]:.2f} to {spread[1]:.2f})"


def seconds(job: Callable[[], object]) -> float:
    """Of this process, so that a busy machine does not count."""
    start = time.process_time()
    job()
    return time.process_time() - start
