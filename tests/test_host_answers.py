"""Many samples inside the host: the same whatever the portions, kept after a cancel, told in words."""

from __future__ import annotations

import pytest
import torch
from guided_host import SIZE, gaussian_model

from posterior.algebra.refusal import Refusal
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.measurement.samples import Moments
from posterior.operators.identity import Identity
from posterior.operators.inpainting import Inpainting


@pytest.fixture(scope="module")
def gaussian(host):
    return gaussian_model(host)


def photo(index: int = 0) -> torch.Tensor:
    """One of the pictures that the prior is made of, `1 3 H W`."""
    return torch.rand(6, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))[index : index + 1].movedim(-1, 1)


@pytest.fixture(scope="module")
def hole():
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., 2:6, 2:6] = 1
    return Measurement.simulate(Inpainting(mask), photo(), GaussianNoise(0.02), 1)


COMMON = {"steps": 6, "seed": 3, "cfg": 1.0}


def test_samples_do_not_depend_on_the_portions(host, gaussian, hole):
    def gathered(at_once: int, keep: int = 5):
        return host.call(
            "PosteriorSamples", model=gaussian, measurement=hole, samples=5, keep=keep, at_once=at_once, **COMMON
        )

    whole, mean, heat, report = gathered(5)
    assert len(whole) == 5 and "5 samples" in report and "fit" in report
    for at_once in (1, 2):
        pictures, other, *_ = gathered(at_once)
        assert (pictures - whole).abs().max() < 1e-5 and (other - mean).abs().max() < 1e-5
    few, other, *_ = gathered(2, keep=2)
    assert len(few) == 2 and (other - mean).abs().max() < 1e-5  # the moments are of all
    moments = Moments()
    moments.add(whole)
    assert (moments.mean.float().clamp(0, 1) - mean[0]).abs().max() < 2e-2  # pictures are cut to [0, 1]
    inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    inside[2:6, 2:6] = True
    spread = whole.std(0).mean(-1)
    assert spread[inside].mean() > 2 * spread[~inside].mean()


def test_a_cancel_keeps_what_is_there(host, gaussian, hole, monkeypatch):
    import comfy.model_management as management

    calls = []

    def interrupt_later(*args):
        calls.append(1)
        if len(calls) == 40:  # in the third of five samples
            management.interrupt_current_processing(True)

    import comfy.utils

    comfy.utils.set_progress_bar_global_hook(lambda *args, **_: interrupt_later())
    try:
        pictures, _, _, report = host.call(
            "PosteriorSamples", model=gaussian, measurement=hole, samples=12, keep=12, at_once=1, **COMMON
        )
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
        management.interrupt_current_processing(False)
    assert 1 <= len(pictures) < 12 and f"stopped after {len(pictures)} of 12" in report


def test_statistics_name_the_unsure_pixels_and_judge_the_ranges(host, gaussian, hole):
    samples, *_ = host.call(
        "PosteriorSamples", model=gaussian, measurement=hole, samples=19, keep=19, at_once=19, **{**COMMON, "steps": 20}
    )
    out = host.call(
        "PosteriorStatistics", samples=samples, interval=0.9, unsure_above=0.03, measurement=hole,
        reference=photo().movedim(1, -1),
    )  # fmt: skip
    mean, heat, low, high, best, pair, unsure, report = out
    assert (low <= mean).all() and (mean <= high).all() and len(best) == 1 and len(pair) == 2
    assert unsure[0, 3:5, 3:5].all() and unsure[0, :, 7].mean() < 0.5
    assert "fits best" in report and "if the samples are exact" in report and "lets expect" in report
    with pytest.raises(Refusal, match="at least two samples"):
        host.call("PosteriorStatistics", samples=samples[:1], interval=0.9, unsure_above=0.03)


def test_the_mmse_estimate_is_the_mean_or_one_call(host, gaussian, hole):
    run = {"model": gaussian, "samples": 4, "at_once": 4, **COMMON}
    mean, heat, report = host.call("PosteriorMMSEEstimate", measurement=hole, **run)
    assert mean.shape[0] == 1 and "mean of 4 samples" in report
    noisy = Measurement.simulate(Identity(), photo(), GaussianNoise(0.1), 1)
    mean, heat, report = host.call("PosteriorMMSEEstimate", measurement=noisy, **run)
    assert "one model call" in report
    assert (mean - photo().movedim(1, -1)).square().mean() < 0.7 * 0.01


def test_between_mean_and_sample(host):
    mean, sample = torch.full((1, 4, 4, 3), 0.5), torch.rand(2, 4, 4, 3)
    half = host.call("PosteriorPerceptionDistortion", mean=mean, sample=sample, perception=0.5)
    torch.testing.assert_close(half, 0.5 * mean + 0.5 * sample)
    with pytest.raises(Refusal, match="differ in size"):
        host.call("PosteriorPerceptionDistortion", mean=mean[:, :3], sample=sample, perception=0.5)


def test_compare_shows_names_and_numbers(host):
    truth = torch.rand(1, 32, 32, 3, generator=torch.manual_seed(1))
    noisy = (truth + 0.1 * torch.randn(truth.shape, generator=torch.manual_seed(2))).clamp(0, 1)
    sheet, report = host.call("PosteriorCompare", image_1=truth, image_2=noisy, names="true\nnoisy", reference=truth)
    lines = report.splitlines()
    assert lines[0].startswith("true, inf dB") and lines[1].startswith("noisy, 2") and "SSIM" in lines[1]
    assert sheet.shape[2] >= 2 * 128 + 8 and sheet.shape[1] > 128  # enlarged, so that words fit
    assert (sheet[0, 2:128:4, 2:128:4] - truth[0]).abs().max() < 3e-3  # as 8 bits


def test_the_residual_test_finds_what_was_left_out(host):
    clean = photo()
    clean = torch.nn.functional.interpolate(clean, scale_factor=6, mode="bicubic").clamp(0, 1)
    measurement = Measurement.simulate(Identity(), clean, GaussianNoise(0.05), 1)
    right = host.call("PosteriorResidualTest", measurement=measurement, image=clean.movedim(1, -1), radius=2)
    assert right[3] > 0.05 and "white" in right[4]
    blurred = torch.nn.functional.avg_pool2d(clean, 5, 1, 2)
    wrong = host.call("PosteriorResidualTest", measurement=measurement, image=blurred.movedim(1, -1), radius=2)
    assert wrong[3] < 1e-3 and "structure" in wrong[4]


def test_evidence_is_compared_in_words(host):
    from posterior.host.record import RunRecord

    records = [RunRecord(record={"log-evidence": value}) for value in (-100.0, -105.0)]
    latent = host.latent(1, 3, 4, 4)
    ratio, report = host.call(
        "PosteriorEvidence", record_a=records[0], latent_a=latent, record_b=records[1], latent_b=latent
    )
    assert ratio == pytest.approx(5.0) and "first damage explains the picture 148 times better" in report
    with pytest.raises(Refusal, match="holds no evidence"):
        host.call("PosteriorEvidence", record_a=RunRecord(), latent_a=latent, record_b=records[1], latent_b=latent)
