"""Gradients through the host's models: right, in every mode, and without a trace afterwards."""

from __future__ import annotations

import pytest
import tiny_models
import torch

from posterior.operators.inpainting import Inpainting
from posterior.operators.measurement import Measurement
from posterior.operators.noise import GaussianNoise


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def sd15(host, folder):
    """(MODEL, its file)"""
    import comfy.sd

    path = tiny_models.sd15(folder / "sd15.safetensors")
    with torch.inference_mode():
        return comfy.sd.load_diffusion_model(str(path)), path


@pytest.fixture(scope="module")
def vae(host, folder):
    """(VAE, its file)"""
    import comfy.sd
    import comfy.utils

    path = tiny_models.vae(folder / "vae.safetensors")
    with torch.inference_mode():
        return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path))), path


def measurement(batch: int = 1, size: int = 64) -> Measurement:
    """The upper half of random pictures."""
    mask = torch.zeros(1, 1, size, size)
    mask[..., size // 2 :, :] = 1
    picture = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(7))
    return Measurement.observe(Inpainting(mask), picture, GaussianNoise(0.0))


SIGMAS = torch.tensor([5.0, 2.0])


def reference(sd15, vae, x: torch.Tensor, conditioning, measured: Measurement, zeta: float, unit=None) -> torch.Tensor:
    """x after one step of DPS from SIGMAS[0] to SIGMAS[1], written down from the paper, without the host's samplers.

    unit: `(x_in, timestep, context) -> eps`, the network.
    """
    import comfy.ldm.modules.attention as attention
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.taesd.taesd import TAESD
    from safetensors.torch import load_file

    network = UNetModel(
        image_size=8, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[1], channel_mult=[1],
        num_heads=8, num_head_channels=-1, use_spatial_transformer=True, transformer_depth=[1],
        transformer_depth_middle=1, transformer_depth_output=[1] * 2, context_dim=768, dtype=torch.float32,
    ).requires_grad_(False)  # fmt: skip
    network.load_state_dict(load_file(sd15[1]))
    decoder = TAESD(latent_channels=4)
    decoder.load_state_dict(load_file(vae[1]))
    sigma, following = SIGMAS.tolist()
    timestep = sd15[0].get_model_object("model_sampling").timestep(SIGMAS[:1]).float()
    options = {"optimized_attention_override": lambda f, *a, **k: attention.attention_pytorch(*a, **k)}
    x = x.clone().requires_grad_()
    contexts = conditioning[0][0].clone().expand(x.shape[0], -1, -1)
    eps = network(x / (sigma**2 + 1) ** 0.5, timestep.expand(x.shape[0]), contexts, transformer_options=options)
    x0 = x - sigma * eps
    picture = (decoder.decode(x0 / 0.18215) + 1) / 2
    residual = (measured.y - measured.operator.forward(picture)).flatten(1).norm(dim=1).sum()
    (gradient,) = torch.autograd.grad(residual, x)
    # the published step in variance-preserving coordinates, images in [-1, 1]: both sides carry a factor 2
    shift = -zeta * 2 * (sigma**2 + 1) ** 0.5 * gradient
    return (x0 + following / sigma * (x - x0) + (following**2 + 1) ** 0.5 * shift).detach()


def test_the_gradient_is_the_published_step(host, sd15, vae):
    conditioning, measured = host.conditioning(), measurement()
    before = host.objects(sd15[0].model, vae[0].first_stage_model)
    guidance = host.call("PosteriorDPS", measurement=measured, form="published", strength=0.7, vae=vae[0])
    sampler = host.call("PosteriorGuidedDDIM", amount=0.0, noise_rule="eta", guidance=guidance)
    latent = host.latent(1, 4, 8, 8)
    got, _ = host.sample(sd15[0], sampler, SIGMAS, latent, conditioning)
    assert all(a is b for a, b in zip(before, host.objects(sd15[0].model, vae[0].first_stage_model), strict=True))
    start = SIGMAS[0] * torch.randn(1, 4, 8, 8, generator=torch.manual_seed(1))
    expected = reference(sd15, vae, start, conditioning, measured, 0.7)
    assert (got * 0.18215 - expected).abs().max() < 1e-4


@pytest.mark.parametrize("economy", ["out_of_place", "checkpoint", "pieces"])
def test_every_way_of_saving_memory_gives_the_same_gradient(host, sd15, vae, economy, monkeypatch):
    from posterior.host import run
    from posterior.host.differentiable import Economy

    ways = {
        "out_of_place": Economy(out_of_place=True),
        "checkpoint": Economy(out_of_place=True, checkpoint=True),
        "pieces": Economy(out_of_place=True, checkpoint=True, samples=1),
    }
    positive, negative = host.conditioning(), host.conditioning(seed=5)
    guidance = host.call("PosteriorDPS", measurement=measurement(2), form="published", strength=1.0, vae=vae[0])
    sampler = host.call("PosteriorGuidedDDIM", amount=0.0, noise_rule="eta", guidance=guidance)
    latent = host.latent(2, 4, 8, 8)
    plain, _ = host.sample(sd15[0], sampler, SIGMAS, latent, positive, negative, cfg=3.0)
    monkeypatch.setattr(run, "reserve", lambda guider, shape: ways[economy])
    before = host.objects(sd15[0].model)
    other, _ = host.sample(sd15[0], sampler, SIGMAS, latent, positive, negative, cfg=3.0)
    assert all(a is b for a, b in zip(before, host.objects(sd15[0].model), strict=True))
    assert (plain - other).abs().max() < 1e-4 * plain.abs().max()


def test_a_batch_is_its_samples_run_alone(host, sd15, vae):
    """Measurement, residual norm and gradient belong to one sample each."""
    measured = measurement(2)
    both = host.call("PosteriorDPS", measurement=measured, form="published", strength=1.0, vae=vae[0])
    latent = host.latent(2, 4, 8, 8)
    ddim = {"amount": 0.0, "noise_rule": "eta"}
    together, _ = host.sample(
        sd15[0], host.call("PosteriorGuidedDDIM", guidance=both, **ddim), SIGMAS, latent, host.conditioning()
    )
    for i in range(2):
        own = Measurement(measured.operator, measured.y[i : i + 1], measured.noise)
        guidance = host.call("PosteriorDPS", measurement=own, form="published", strength=1.0, vae=vae[0])
        sampler = host.call("PosteriorGuidedDDIM", guidance=guidance, **ddim)
        single = {**host.latent(1, 4, 8, 8), "batch_index": [i]}
        alone, _ = host.sample(sd15[0], sampler, SIGMAS, single, host.conditioning())
        assert (alone - together[i : i + 1]).abs().max() < 1e-4 * together.abs().max()


def test_controlnet(host, sd15, vae, folder):
    """ControlNet is added in place to tensors that the backward pass needs; a finite difference is the reference."""
    import comfy.controlnet

    with torch.inference_mode():
        net = comfy.controlnet.load_controlnet(str(tiny_models.controlnet(folder / "control.safetensors")))
        hint = torch.rand(1, 64, 64, 3, generator=torch.manual_seed(3))
    conditioning = host.call(
        "ControlNetApplyAdvanced", positive=host.conditioning(), negative=host.conditioning(), control_net=net,
        image=hint, strength=0.8, start_percent=0.0, end_percent=1.0,
    )[0]  # fmt: skip
    check_directional_derivative(host, sd15[0], vae[0], conditioning)


def check_directional_derivative(host, model, vae, conditioning):
    """DPS's step against a central difference of the residual norm, both through the host's own model call.

    x_s = DDIM(x_t) + c zeta grad: along a direction d the guided and the unguided step differ by c zeta (grad . d).
    """
    measured = measurement()
    latent, zeta = host.latent(1, 4, 8, 8), 1.0
    guidance = host.call("PosteriorDPS", measurement=measured, form="published", strength=zeta, vae=vae)
    ddim = {"amount": 0.0, "noise_rule": "eta"}
    guided, _ = host.sample(
        model, host.call("PosteriorGuidedDDIM", guidance=guidance, **ddim), SIGMAS, latent, conditioning
    )
    start = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(1))

    def residual(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """norm(y - A decode(x0_hat)) at x_t = sigma_t z, and the unguided step."""
        picture = {"samples": SIGMAS[0] * (z - start) / 0.18215}
        with torch.inference_mode():
            state, denoised = host.sample(model, "euler", SIGMAS, picture, conditioning)
            image = vae.first_stage_model.decode(denoised)
            r = measured.y - measured.operator.forward((image + 1) / 2)
            return r.flatten().double().norm(), state

    sigma, following = SIGMAS.tolist()
    _, unguided = residual(start)
    gradient = (guided - unguided) * 0.18215 / (following**2 + 1) ** 0.5 / (-zeta * 2 * (sigma**2 + 1) ** 0.5)
    direction = gradient / gradient.norm()  # where the derivative is largest, so that rounding matters least
    step = 1e-2
    slope = (residual(start + step * direction)[0] - residual(start - step * direction)[0]) / (2 * step * sigma)
    assert slope.item() == pytest.approx(gradient.norm().item(), rel=0.03)
