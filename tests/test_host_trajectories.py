"""Our own samplers inside the host, and the record of how they converge."""

from __future__ import annotations

import pytest
import torch
from guided_host import SIZE, gaussian_model, guide, measured, misfit

from posterior.guidance.ddnm import DDNM
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise


@pytest.fixture(scope="module")
def gaussian(host):
    return gaussian_model(host)


TRAJECTORIES = [
    ("PosteriorGuidedODE", {"solver": "DPM-Solver++ 2M"}), ("PosteriorGuidedODE", {"solver": "Heun"}),
    ("PosteriorGuidedODE", {"solver": "Euler"}), ("PosteriorGuidedSDE", {"solver": "DPM-Solver++ 2M"}),
    ("PosteriorGuidedSDE", {"solver": "Euler-Maruyama VE"}), ("PosteriorGuidedSDE", {"solver": "Euler-Maruyama VP"}),
    ("PosteriorGuidedSDE", {"solver": "Euler-Maruyama flow"}),
    ("PosteriorAnnealedLangevin", {"corrections": 2, "step_size": 0.1}),
    ("PosteriorPredictorCorrector", {"eta": 1.0, "corrections": 1, "snr": 0.16}),
    ("PosteriorGuidedDDIM", {"amount": 1.0, "noise_rule": "eta", "repeats": 2, "jump": 2}),
    ("PosteriorAnnealedRestoration", {}),
]  # fmt: skip


@pytest.mark.parametrize("node, inputs", TRAJECTORIES, ids=lambda value: str(value))
def test_our_samplers_keep_what_was_measured(host, gaussian, node, inputs):
    """In the host, guided and unguided, with a progress bar that ends where it should."""
    import comfy.utils

    measurement, seen = measured(), []
    sigmas = host.call("BasicScheduler", model=gaussian, scheduler="karras", steps=6, denoise=1.0)
    latent = host.latent(2, 3, SIZE, SIZE)
    free, _ = host.sample(gaussian, host.call(node, **inputs), sigmas, latent)
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *_, **__: seen.append((value, total)))
    try:
        sampler = host.call(node, guidance=guide(DDNM(measurement)), **inputs)
        guided, _ = host.sample(gaussian, sampler, sigmas, latent)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert free.isfinite().all() and misfit(measurement, free) > 0.05
    assert misfit(measurement, guided) < 1e-5
    assert seen == sorted(seen) and {total for _, total in seen} == {6} and seen[-1][0] == 6


def test_heun_is_the_host_s(host, gaussian):
    sigmas = host.call("BasicScheduler", model=gaussian, scheduler="karras", steps=6, denoise=1.0)
    ours, _ = host.sample(
        gaussian, host.call("PosteriorGuidedODE", solver="Heun"), sigmas, host.latent(1, 3, SIZE, SIZE)
    )
    for name, solver in (("heun", "Heun"), ("dpmpp_2m", "DPM-Solver++ 2M")):
        sampler = host.call("PosteriorGuidedODE", solver=solver)
        ours, _ = host.sample(gaussian, sampler, sigmas, host.latent(1, 3, SIZE, SIZE))
        theirs, _ = host.sample(gaussian, name, sigmas, host.latent(1, 3, SIZE, SIZE))
        assert (ours - theirs).abs().max() < 1e-4


def test_convergence_plot(host, gaussian):
    """The record against what the samplers say, and a picture of it."""
    noisy = Measurement(measured().operator, measured().y, GaussianNoise(0.1))
    from posterior.guidance.diffpir import DiffPIR

    watched, record = host.call("PosteriorRecordConvergence", guidance=guide(DiffPIR(noisy)))
    sampler = host.call("PosteriorGuidedODE", solver="Euler", guidance=watched)
    sigmas = host.call("BasicScheduler", model=gaussian, scheduler="karras", steps=6, denoise=1.0)
    samples, denoised = host.sample(gaussian, sampler, sigmas, host.latent(1, 3, SIZE, SIZE))
    assert [row.sigma for row in record.rows] == pytest.approx(sigmas[:-1].tolist(), rel=1e-5)
    assert record.rows[-1].misfit[0] == pytest.approx(noisy.fit((denoised + 1) / 2).item(), rel=1e-4)
    assert record.rows[0].change > 0
    host.sample(gaussian, sampler, sigmas, host.latent(1, 3, SIZE, SIZE))
    assert len(record.rows) == 6  # the last run only
    image = host.call("PosteriorConvergencePlot", record=record, latent={"samples": samples}, width=640)
    assert image.shape == (1, 512, 640, 3) and image.dtype == torch.float32
    assert 0 <= image.min() and image.max() <= 1 and image.std() > 0.05
