"""Our own samplers inside the host, and the record of how they converge."""

from __future__ import annotations

import math

import pytest
import tiny_models
import torch
from guided_host import SIZE, gaussian_model, guide, measured, misfit

from posterior.algebra.streams import Streams
from posterior.guidance.ddnm import DDNM
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.downscale import downscale
from posterior.operators.identity import Identity
from posterior.operators.inpainting import Inpainting
from posterior.operators.jpeg import JPEG


@pytest.fixture(scope="module")
def gaussian(host):
    return gaussian_model(host)


@pytest.fixture(scope="module")
def sd15(host, tmp_path_factory):
    return tiny_models.load(tiny_models.sd15(tmp_path_factory.mktemp("checkpoints") / "sd15.safetensors"))


@pytest.fixture(scope="module")
def vae(host, tmp_path_factory):
    return tiny_models.load_vae(tiny_models.vae(tmp_path_factory.mktemp("vaes") / "vae.safetensors"))


TRAJECTORIES = [
    ("PosteriorGuidedODE", {"solver": "DPM-Solver++ 2M"}), ("PosteriorGuidedODE", {"solver": "Heun"}),
    ("PosteriorGuidedODE", {"solver": "Euler"}), ("PosteriorGuidedSDE", {"solver": "DPM-Solver++ 2M"}),
    ("PosteriorGuidedSDE", {"solver": "Euler-Maruyama VE"}), ("PosteriorGuidedSDE", {"solver": "Euler-Maruyama VP"}),
    ("PosteriorGuidedSDE", {"solver": "Euler-Maruyama flow"}),
    ("PosteriorAnnealedLangevin", {"corrections": 2, "step_size": 0.1}),
    ("PosteriorPredictorCorrector", {"eta": 1.0, "corrections": 1, "snr": 0.16}),
    ("PosteriorGuidedDDIM", {"amount": 1.0, "noise_rule": "eta", "repeats": 2, "jump": 2}),
    ("PosteriorGuidedDDIM", {"preset": "RePaint"}),
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


FADED = {"unknown": "nothing", "size": 5, "noise": "found"}
MEASURED = [
    ("PosteriorSplitGibbs", {"inner": 4, "hold": 4, "kernel": "HMC", "gradients": 20}),
    ("PosteriorDAPS", {"inner": 3, "kernel": "MALA", "gradients": 20}),
    ("PosteriorPMC", {"order": "PnP", "corrections": 20}),
    ("PosteriorMGPS", {"iterations": 3, "more": 20, "rate": 0.1}),
    ("PosteriorDCPS", {"iterations": 3, "rate": 1.5}),
    ("PosteriorREDDiff", {"rate": 0.3}),
    ("PosteriorVariationalGaussian", {"inner": 5, "hold": 20, "rate": 0.1}),
    ("PosteriorLATINO", {"start": "back-projection", "delta": 0.0}),
    ("PosteriorFlowDPS", {"schedule": "TriPS-T", "iterations": 3}),
    ("PosteriorFLAIR", {"iterations": 3}),
    ("PosteriorNoiseSpace", {"preset": "as set here", "iterations": 40, "rate": 0.1}),
    ("PosteriorNoiseSpace", {"preset": "FMPlug", "iterations": 1}),
    ("PosteriorScorePrior", {"iterations": 20, "batch": 4}),
    ("PosteriorCM4IR", {}),
    ("PosteriorBlindSampler", {**FADED, "method": "DiffPIR", "update": "solve", "path": "sample", "since": 0.3}),
    ("PosteriorBlindSampler", {**FADED, "method": "DPS", "update": "draw", "path": "restoration", "since": 0.0}),
    ("PosteriorBlindSplitGibbs", {**FADED, "inner": 3, "hold": 2}),
    ("PosteriorBlindREDDiff", {"unknown": "nothing", "size": 5, "rate": 0.3}),
]


@pytest.mark.parametrize("node, inputs", MEASURED, ids=lambda value: str(value))
def test_samplers_that_take_the_measurement_themselves(host, gaussian, node, inputs):
    picture = torch.rand(6, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))[:1].movedim(-1, 1)
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., SIZE // 2 :] = 1
    measurement = Measurement.observe(Inpainting(mask), picture, GaussianNoise(0.1))
    steps = 3 if node == "PosteriorNoiseSpace" else 20
    sigmas = host.call("BasicScheduler", model=gaussian, scheduler="karras", steps=steps, denoise=1.0)
    before = host.objects(gaussian.model)
    sampler, record = host.call(node, measurement=measurement, **inputs)
    samples, _ = host.sample(gaussian, sampler, sigmas, host.latent(2, 3, SIZE, SIZE))
    fit = measurement.fit((samples + 1) / 2)
    assert samples.isfinite().all() and (fit < 2.0).all()
    assert all(a is b for a, b in zip(before, host.objects(gaussian.model), strict=True))
    if node == "PosteriorNoiseSpace":
        image = host.call("PosteriorConvergencePlot", record=record, latent=host.latent(1, 3, 8, 8), width=256)
        assert image.std() > 0


def test_a_blur_and_levels_are_found_inside_the_host(host, gaussian):
    """What was found leaves by the record: as a picture that the kernel's own node takes, and in words."""
    x = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    measurement = Measurement.observe(Identity(), 0.3 + 0.5 * x, GaussianNoise(0.01))
    sigmas = host.call("BasicScheduler", model=gaussian, scheduler="karras", steps=6, denoise=1.0)
    how = {"size": 3, "noise": "as given", "method": "DiffPIR", "update": "solve", "path": "sample", "since": 0.3}
    for unknown, said in (("any blur", "any shape"), ("levels of each colour", "offset blue")):
        sampler, record = host.call("PosteriorBlindSampler", measurement=measurement, unknown=unknown, **how)
        samples, _ = host.sample(gaussian, sampler, sigmas, host.latent(2, 3, SIZE, SIZE))
        kernel, report = host.call("PosteriorFoundDamage", record=record, latent={"samples": samples})
        assert samples.isfinite().all() and said in report and kernel.shape == (2, 3, 3, 3) and kernel.max() == 1
        host.call("PosteriorKernelBlur", kernel=kernel[:1], boundary="reflect")
    with pytest.raises(Exception, match="choose the method DPS"):
        host.call("PosteriorBlindSampler", measurement=measurement, unknown="gamma", **how)


def test_they_see_a_latent_model_through_its_vae(host, sd15, vae):
    measurement = Measurement.observe(
        Inpainting(torch.zeros(1, 1, 64, 64).index_fill(3, torch.arange(32), 1.0)),
        torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)), GaussianNoise(0.1),
    )  # fmt: skip
    sigmas = torch.tensor([3.0, 0.0])
    least = {"inner": 1, "hold": 1, "iterations": 1, "corrections": 1, "more": 1, "gradients": 5}
    for node, inputs in MEASURED[:8]:  # a preset brings hundreds of iterations, what came later has tests of its own
        short = {key: value for key, value in least.items() if key in inputs}
        sampler, _ = host.call(node, measurement=measurement, vae=vae, **{**inputs, **short})
        samples, _ = host.sample(sd15, sampler, sigmas, host.latent(1, 4, 8, 8), host.conditioning())
        assert samples.isfinite().all()


@pytest.mark.parametrize(
    "operator, method", [(downscale(4, "box"), "LATINO"), (JPEG(30), "FLAIR")], ids=["downscale", "JPEG"]
)
def test_solve_takes_few_steps_of_a_latent_model_without_its_gradient(host, sd15, vae, operator, method):
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    measurement = Measurement.simulate(operator, picture, GaussianNoise(0.05), 0)
    result = host.call(
        "PosteriorSolve", model=sd15, measurement=measurement, estimate="samples", steps=2, seed=0, batch_size=1,
        cfg=1.0, vae=vae, positive=host.conditioning(), negative=host.conditioning(),
    )  # fmt: skip
    assert result[0].isfinite().all() and result[0].shape == (1, 64, 64, 3)
    assert f"samples by {method}, because" in result[3]


@pytest.mark.parametrize("rescaled", [False, True])
def test_trips_t_raises_cfg_as_published(host, rescaled, tmp_path):
    """A transcription with the guider's own cfg, where nothing is to be fitted; RescaleCFG stays in place."""
    import comfy.samplers

    model = tiny_models.load(tiny_models.sd3(tmp_path / "sd3.safetensors"))
    vae = tiny_models.load_vae(tiny_models.vae(tmp_path / "vae.safetensors", channels=16))
    if rescaled:
        model = host.call("RescaleCFG", model=model, multiplier=0.7)
    sigmas = host.call("BasicScheduler", model=model, scheduler="simple", steps=4, denoise=1.0)
    scales = []

    def published(model, x, sigmas, extra_args=None, callback=None, disable=None):
        draws, guider = Streams(1, "sampling"), model.inner_model
        for i, (t, s) in enumerate(zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True)):
            u = i / 3
            guider.cfg = 1 + 5 * math.log(1 + 6 * u) / math.log(7)
            scales.append(guider.cfg)
            z0 = model(x, x.new_full((1,), t), **extra_args)
            z1, eta = (x - (1 - t) * z0) / t, 1 - (math.exp(15 * u) - 1) / (math.exp(15) - 1)
            fresh = draws.normal(x) if s else 0.0
            x = (1 - s) * z0 + s * (math.sqrt(1 - eta**2) * z1 + eta * fresh)
        return x

    prompts = [host.conditioning(width=4096, pooled=2048, seed=seed) for seed in (0, 1)]
    measurement = Measurement.observe(Identity(), torch.rand(1, 3, 64, 64), GaussianNoise(1e4))
    found = {}
    for cfg in ("rising", "as set"):
        sampler, _ = host.call("PosteriorFlowDPS", measurement=measurement, vae=vae, iterations=3, cfg=cfg)
        found[cfg], _ = host.sample(model, sampler, sigmas, host.latent(1, 16, 8, 8), *prompts, cfg=6.0)
    theirs, _ = host.sample(model, comfy.samplers.KSAMPLER(published), sigmas, host.latent(1, 16, 8, 8), *prompts)
    assert scales == sorted(scales) and scales[0] == 1 and scales[-1] == pytest.approx(6)
    torch.testing.assert_close(found["rising"], theirs, rtol=1e-3, atol=1e-3)
    assert (found["as set"] - theirs).abs().max() > 0.05


@pytest.mark.parametrize("family", ["pixels", "sd3"])
def test_noise_levels_for_the_damage(host, gaussian, family, tmp_path):
    """In the unit of the model: times of a flow model as they are, sigma = u / (1 - u) for others."""
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1
    measurement = Measurement.observe(Inpainting(mask), torch.rand(1, 3, 64, 64), GaussianNoise(0.1))
    model = gaussian if family == "pixels" else tiny_models.load(tiny_models.sd3(tmp_path / "sd3.safetensors"))
    made = {"model": model, "measurement": measurement, "steps": 8, "start": 0.9, "end": 0.2}
    uneven, even = (host.call("PosteriorOperatorSigmas", strength=strength, **made) for strength in (1.0, 0.0))
    u = torch.tensor([0.9 - 0.7 * j / 9 for j in range(1, 9)])
    torch.testing.assert_close(even[:-1], u if family == "sd3" else u / (1 - u), rtol=1e-4, atol=1e-5)
    assert even[-1] == 0 and len(uneven) == 9 and (uneven[:-1] > even[:-1]).all()  # what is missing, at high noise


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
