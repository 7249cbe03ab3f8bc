"""Latent guidance inside the host: every method through a VAE, sizes, refusals, memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch
from host_vaes import load_taesd, narrow_kl, vae_of
from patch_codec import PatchPCA

from posterior.algebra.refusal import Refusal
from posterior.guidance.ddnm import DDNM
from posterior.guidance.diffpir import DiffPIR
from posterior.guidance.dps import DPS
from posterior.guidance.mmps import MMPS
from posterior.guidance.mpgd import MPGD
from posterior.guidance.pigdm import PiGDM
from posterior.guidance.psld import PSLD
from posterior.guidance.resample import ReSample
from posterior.guidance.score_ald import ScoreALD
from posterior.guidance.stsl import STSL
from posterior.guidance.treg import TReg
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.downscale import downscale
from posterior.operators.inpainting import Inpainting
from posterior.operators.jpeg import JPEG

SIGMAS = torch.tensor([5.0, 2.0, 0.0])


@pytest.fixture(scope="module")
def taesd(host, tmp_path_factory):
    return load_taesd(tmp_path_factory.mktemp("checkpoints") / "vae.safetensors")


@pytest.fixture(scope="module")
def checkpoint(host, tmp_path_factory):
    return tiny_models.sd15(tmp_path_factory.mktemp("checkpoints") / "sd15.safetensors")


@pytest.fixture(scope="module")
def sd15(checkpoint):
    return tiny_models.load(checkpoint)


def measured(operator=None, size=(64, 64), noise: float = 0.05, batch: int = 1) -> Measurement:
    picture = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(7))
    if operator is None:
        mask = torch.zeros(1, 1, *size)
        mask[..., 20:50, 10:40] = 1
        operator = Inpainting(mask)
    return Measurement.simulate(operator, picture, GaussianNoise(noise), 0)


def sampler_for(host, block, vae, amount=1.0):
    from posterior.host.run import Guide
    from posterior.host.sampler import GuidedSampler
    from posterior.samplers.ddim import GuidedDDIM

    return GuidedSampler((Guide(block, vae),), GuidedDDIM(amount))


METHODS = [
    DPS, lambda m: DPS(m, jacobian=False), MPGD, lambda m: MMPS(m, 1), PiGDM, lambda m: PiGDM(m, jacobian=False), DDNM,
    DiffPIR, PSLD, STSL, lambda m: ReSample(m, 1, iterations=3), lambda m: TReg(m, 1),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_through_a_vae_and_leaves_no_trace(host, sd15, taesd, method):
    block = method(measured())
    before = host.objects(sd15.model, taesd.first_stage_model)
    rest = (SIGMAS, host.latent(1, 4, 8, 8), host.conditioning())
    samples, _ = host.sample(sd15, sampler_for(host, block, taesd), *rest)
    plain, _ = host.sample(sd15, "euler", *rest)
    assert samples.isfinite().all() and (samples - plain).abs().max() > 1e-3
    assert all(a is b for a, b in zip(before, host.objects(sd15.model, taesd.first_stage_model), strict=True))


def test_a_projection_through_the_vae_is_the_formula(host, sd15, taesd):
    """One step of DDNM to sigma = 0: z + E(x + A^+ (y - A x)) - E(x), x = D(z), by the network's own functions."""
    vae = vae_of(taesd, PatchPCA(4), torch.float64)
    measurement, sigmas = measured(noise=0.0), torch.tensor([2.0, 0.0])
    latent = host.latent(1, 4, 8, 8)
    got, _ = host.sample(sd15, sampler_for(host, DDNM(measurement), vae), sigmas, latent, host.conditioning())
    z, _ = host.sample(sd15, "euler", sigmas, latent, host.conditioning())
    network = vae.first_stage_model
    x = (network.decode(z.double()) + 1) / 2
    kept = x + measurement.operator.pinv(measurement.residual(x))
    expected = z + network.encode(2 * kept - 1) - network.encode(2 * x - 1)
    # float32 states of size 10
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


def test_gauss_newton_fits_through_a_linear_vae(host, sd15, taesd):
    """Pi-GDM's last step, at next to no noise, lands where the measurement and the VAE's range allow."""
    vae = vae_of(taesd, PatchPCA(4), torch.float64)
    measurement = measured(downscale(8, "box"), noise=0.02)
    latent = host.latent(1, 4, 8, 8)
    residuals = []
    guided = [sampler_for(host, block, vae) for block in (DiffPIR(measurement), MMPS(measurement, 5))]
    for sampler in (*guided, "euler"):
        z, _ = host.sample(sd15, sampler, torch.tensor([3.0, 1.0, 0.3, 0.0]), latent, host.conditioning())
        residuals.append(measurement.residual_rms((vae.first_stage_model.decode(z.double()) + 1) / 2).item())
    assert max(residuals[:2]) < 0.5 * residuals[2]


@pytest.mark.parametrize("size", [(61, 50), (64, 64)])
def test_pictures_of_any_size(host, sd15, taesd, size):
    """Latents of the next multiple of 8, the picture in their corner: nothing is cut off."""
    measurement = measured(size=size)
    latent = host.call("PosteriorStartingPoint", measurement=measurement, start="smooth", batch_size=1, vae=taesd)
    assert latent["samples"].shape == (1, 4, 8, -(-size[1] // 8))
    for block in (DPS(measurement), DDNM(measurement), PSLD(measurement)):
        samples, _ = host.sample(sd15, sampler_for(host, block, taesd), SIGMAS, latent, host.conditioning())
        assert samples.isfinite().all()
    images, *_ = host.call(
        "PosteriorSolve", model=sd15, measurement=measurement, estimate="samples", steps=2, seed=0, batch_size=1,
        cfg=1.0, vae=taesd, positive=host.conditioning(), negative=host.conditioning(),
    )  # fmt: skip
    assert images.shape == (1, *size, 3)


def test_the_fit_of_a_picture_that_the_vae_made_larger(host, taesd):
    """Its upper left corner counts; a picture that is larger by a whole latent pixel is another one."""
    measurement = measured(size=(61, 50))
    latent = host.call("PosteriorStartingPoint", measurement=measurement, start="smooth", batch_size=1, vae=taesd)
    image = host.call("VAEDecode", samples=latent, vae=taesd)
    assert image.shape == (1, 64, 56, 3)
    fit, report, residual = host.call("PosteriorMeasurementFit", image=image, measurement=measurement)
    corner = image.movedim(-1, 1)[..., :61, :50]
    assert fit == pytest.approx(measurement.fit(corner).item()) and "of the upper left 50 x 61" in report
    assert residual.shape == (1, 61, 50, 3)
    *same, _ = host.call("PosteriorMeasurementFit", image=corner.movedim(1, -1), measurement=measurement)
    assert same == [pytest.approx(fit), report.split(", of the upper left")[0]]
    for height, width in ((93, 50), (61, 82), (60, 64)):
        with pytest.raises(Refusal, match=f"The picture is {width} x {height} and the measurement speaks of 50 x 61;"):
            host.call("PosteriorMeasurementFit", image=torch.rand(1, height, width, 3), measurement=measurement)


def test_jpeg_and_batches(host, sd15, taesd):
    """A nonlinear measurement; and a sample of a batch is the sample alone."""
    measurement = measured(JPEG(20), batch=2)
    latent = host.latent(2, 4, 8, 8)
    both, _ = host.sample(sd15, sampler_for(host, DPS(measurement), taesd, 0.0), SIGMAS, latent, host.conditioning())
    own = replace(measurement, y=measurement.y[1:])
    single = {**host.latent(1, 4, 8, 8), "batch_index": [1]}
    alone, _ = host.sample(sd15, sampler_for(host, DPS(own), taesd, 0.0), SIGMAS, single, host.conditioning())
    assert (alone - both[1:]).abs().max() < 1e-2 * both.abs().max()


def test_refusals(host, sd15, taesd):
    rest = (SIGMAS, host.latent(1, 4, 8, 8), host.conditioning())
    wrong = host.latent(1, 4, 8, 20)
    with pytest.raises(Refusal, match="64 x 64 picture and the latent decodes to 160 x 64; make the latent"):
        host.sample(sd15, sampler_for(host, DPS(measured()), taesd), SIGMAS, wrong, host.conditioning())
    video = vae_of(taesd, PatchPCA(4), latent_dim=3)
    with pytest.raises(Refusal, match="video or sound"):
        host.sample(sd15, sampler_for(host, DPS(measured()), video), *rest)
    with pytest.raises(Refusal, match="video or sound"):
        clip = host.latent(1, 4, 2, 8, 8)
        host.sample(sd15, sampler_for(host, DPS(measured()), taesd), SIGMAS, clip, host.conditioning())
    images = torch.rand(4, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    pixels = host.call("PosteriorGaussianPrior", images=images, floor=0.05)
    with pytest.raises(Refusal, match="PSLD is made for latent models"):
        host.sample(pixels, sampler_for(host, PSLD(measured()), None), SIGMAS, host.latent(1, 3, 64, 64))
    with pytest.raises(Refusal, match="seen through a VAE is not; choose DPS instead"):
        host.sample(sd15, sampler_for(host, ScoreALD(measured()), taesd), *rest)


def test_memory_decides_how_the_gradient_is_made(host, checkpoint, taesd, monkeypatch):
    """Plain, checkpointed, in tiles: the first that fits; and an error for want of memory goes on from there."""
    import comfy.model_management as management

    from posterior.host.autograd import memory
    from posterior.host.autograd.memory_plan import MemoryPlan
    from posterior.host.spaces import space

    model = tiny_models.load(checkpoint, torch.float32)  # as people have it

    class Guider:
        model_patcher, inner_model, loaded_models, conds = model, model.model, (), {"positive": []}

    through = space.LatentSpace(model.model, vae_of(taesd, narrow_kl()))
    shape, ways = (1, 4, 128, 128), []
    monkeypatch.setattr(management, "load_models_gpu", lambda *_, **__: None)
    for free in (1e12, 30e9, 20e9, 1e9):
        monkeypatch.setattr(management, "get_free_memory", lambda *_, free=free: free)
        ways.append(memory.reserve(Guider, shape, through))
    assert [(way.decoder, way.checkpoint, bool(way.tile)) for way in ways] == [
        (False, False, False), (False, True, False), (True, True, False), (True, True, True),
    ]  # fmt: skip
    way, error, tried = MemoryPlan(), torch.cuda.OutOfMemoryError(), []
    while way is not None:
        tried.append((way.decoder, way.checkpoint, bool(way.tile), way.samples))
        way = way.after(error, 2, decodes=True)
    assert tried == [
        (False, False, False, 0), (False, True, False, 0), (True, True, False, 0), (True, True, True, 0),
        (True, True, True, 1),
    ]  # fmt: skip
