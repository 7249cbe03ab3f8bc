"""Every picture family that the host knows: gradients are right and the methods run, in one frame of video as well."""

from __future__ import annotations

import pytest
import tiny_families
import torch
from guided_host import Probe
from host_vaes import Unscaled

from posterior.algebra.refusal import Refusal
from posterior.guidance.ddnm import DDNM
from posterior.guidance.dps import DPS
from posterior.guidance.mpgd import MPGD
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.inpainting import Inpainting
from posterior.samplers.ddim import GuidedDDIM


def measured(side: int = 64, batch: int = 1) -> Measurement:
    mask = torch.zeros(1, 1, side, side)
    mask[..., 20:40, 10:50] = 1
    picture = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(7))
    return Measurement.simulate(Inpainting(mask), picture, GaussianNoise(0.05), 0)


def sampler_for(block, vae, sampler=None, trace=None):
    from posterior.host.run import Guide
    from posterior.host.sampler import GuidedSampler

    return GuidedSampler((Guide(block, vae, trace),), sampler or GuidedDDIM(1.0))


@pytest.mark.parametrize("family", tiny_families.FAMILIES, ids=lambda family: family.name)
def test_a_family(host, family, monkeypatch):
    from posterior.host.apply import apply_guidance
    from posterior.host.record import RunRecord
    from posterior.host.run import Guide
    from posterior.host.solve import sampling_sigmas

    model, vae = tiny_families.load(family, monkeypatch), tiny_families.vae_for(family.vae)
    assert type(model.model.model_config).__name__ == family.name
    positive, measurement = tiny_families.prompt(family), measured(family.side)
    latent = host.call("PosteriorStartingPoint", measurement=measurement, start="noise", batch_size=1, vae=vae)
    networks = [model.model] if vae is None else [model.model, vae.first_stage_model]
    before = host.objects(*networks)
    sigmas = sampling_sigmas(model, 2)

    trace = RunRecord()
    host.sample(model, sampler_for(DPS(measurement), vae, Probe(), trace), sigmas, latent, positive)
    chain, difference = trace.record["slopes"]
    # states and predictions are float32: 1e-3 of a loss of hundreds over a step of 0.02
    assert chain > 0 and difference == pytest.approx(chain, rel=0.03)

    plain, _ = host.sample(model, "euler", sigmas, latent, positive)
    for method in (DPS, MPGD, DDNM):
        samples, _ = host.sample(model, sampler_for(method(measurement), vae), sigmas, latent, positive)
        assert samples.shape == plain.shape and samples.isfinite().all() and (samples - plain).abs().max() > 1e-3
    guided = apply_guidance(model, (Guide(DPS(measurement), vae),))
    samples = host.call(
        "KSampler", model=guided, seed=1, steps=2, cfg=2.0, sampler_name="euler", scheduler="simple",
        positive=positive, negative=tiny_families.prompt(family, 1), latent_image=latent, denoise=1.0,
    )["samples"]  # fmt: skip
    assert samples.isfinite().all()
    image, _, fit, _ = host.call(
        "PosteriorSolve", model=model, measurement=measurement, estimate="samples", steps=2, vae=vae,
        positive=positive, negative=positive,
    )  # fmt: skip
    assert image.shape == (1, family.side, family.side, 3) and image.isfinite().all() and 0 < fit < float("inf")
    assert all(a is b for a, b in zip(before, host.objects(*networks), strict=True))


def family_of(name: str) -> tiny_families.Family:
    return next(family for family in tiny_families.FAMILIES if family.name == name)


@pytest.mark.parametrize("name", [family.name for family in tiny_families.FAMILIES if family.reference])
def test_pictures_to_edit_pass_through(host, name, monkeypatch):
    """Reference latents reach the model beside the guidance: with another one the prediction is another."""
    family = family_of(name)
    model, vae, measurement = tiny_families.load(family, monkeypatch), tiny_families.vae_for(family.vae), measured()
    latent = host.call("PosteriorStartingPoint", measurement=measurement, start="noise", batch_size=1, vae=vae)
    made = []
    for seed in (1, 1, 2):
        reference = host.latent(*latent["samples"].shape, seed=seed)
        positive = host.call("ReferenceLatent", conditioning=tiny_families.prompt(family), latent=reference)
        sampler = sampler_for(DPS(measurement), vae, GuidedDDIM(0.0))
        made.append(host.sample(model, sampler, torch.tensor([0.7, 0.4]), latent, positive)[0])
    assert torch.equal(made[0], made[1]) and (made[2] - made[0]).abs().max() > 1e-4


def test_frames_of_a_batch_are_pictures_of_their_own(host, monkeypatch):
    """Sample i of a batch equals the same sample run alone, with a start that was encoded; a video is refused."""
    family = family_of("WAN21_T2V")
    model, vae = tiny_families.load(family, monkeypatch), tiny_families.vae_for(family.vae)
    positive, both, sigmas = tiny_families.prompt(family), measured(batch=2), torch.tensor([0.6, 0.3, 0.0])
    latent = host.call("PosteriorStartingPoint", measurement=both, start="smooth", batch_size=1, vae=vae)
    assert latent["samples"].shape == (2, 16, 1, 8, 8)
    together, _ = host.sample(model, sampler_for(DPS(both), vae), sigmas, latent, positive)
    for i in range(2):
        own = both.take(torch.tensor([i]))
        single = host.call("PosteriorStartingPoint", measurement=own, start="smooth", batch_size=1, vae=vae)
        assert (single["samples"] - latent["samples"][i]).abs().max() < 1e-5
        single["batch_index"] = [i]
        alone, _ = host.sample(model, sampler_for(DPS(own), vae), sigmas, single, positive)
        assert (alone - together[i : i + 1]).abs().max() < 1e-4 * together.abs().max()
    with pytest.raises(Refusal, match="one frame"):
        host.sample(model, sampler_for(DPS(both), vae), sigmas, host.latent(2, 16, 2, 8, 8), positive)
    with pytest.raises(Refusal, match="connect the model's own VAE"):
        picture = tiny_families.vae_for("patches16")
        host.sample(model, sampler_for(DPS(both), picture), sigmas, latent, positive)


@pytest.mark.parametrize("kind", ["wan", "wan2.2", "taehv"])
def test_one_frame_through_a_vae_of_video(host, kind):
    """The host's own picture, and its gradient by a central difference; the same one made sparingly."""
    from posterior.host.autograd.gradients import GradientScope
    from posterior.host.autograd.memory_plan import MemoryPlan
    from posterior.host.spaces.latents import of_vae, picture_ratio
    from posterior.host.spaces.vae import Autoencoder

    vae = tiny_families.vae_for(kind)
    channels, ratio = of_vae(vae).channels, picture_ratio(vae)
    codec = Autoencoder(vae, Unscaled(), (2 * ratio, 2 * ratio), (2, 2), MemoryPlan())
    z = torch.randn(2, channels, 2, 2, dtype=torch.float64, generator=torch.manual_seed(1))
    with torch.inference_mode():
        expected = vae.decode(z[:, :, None])[:, 0].movedim(-1, 1)
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=torch.manual_seed(2))
    with torch.inference_mode(False), GradientScope([vae.first_stage_model]):
        z, weight = z.clone(), weight.clone()
        gradients = []
        tiles = [MemoryPlan(decoder=True, tile=1)] if kind == "taehv" else []  # others look at the whole picture
        for plan in (MemoryPlan(), MemoryPlan(decoder=True), *tiles):
            codec.plan = plan
            leaf = z.clone().requires_grad_()
            image = codec.decode(leaf)
            gradients += torch.autograd.grad((image * weight).sum(), leaf)
        with torch.no_grad():
            image = image if kind == "taehv" else image.clamp(0, 1)  # the host does the same
            assert (image - expected).abs().max() < 1e-5  # the host's picture is float32
            d = gradients[0] / gradients[0].norm()
            slope = sum(sign * (codec.decode(z + sign * 1e-4 * d) * weight).sum() for sign in (1, -1)) / 2e-4
        # kinks of ReLU; the sums are float64
        assert slope.item() == pytest.approx(gradients[0].norm().item(), rel=1e-3)
        assert all((other - gradients[0]).norm() < 1e-6 * gradients[0].norm() for other in gradients[1:])
