"""Gradients through the host's models: right, in every mode, and without a trace afterwards."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from posterior.guidance.dps import DPS
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

    path = tiny_models.sd15(folder / "sd15.safetensors", levels=2)
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
        image_size=8, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[1, 1], channel_mult=[1, 1],
        num_heads=8, num_head_channels=-1, use_spatial_transformer=True, transformer_depth=[1, 1],
        transformer_depth_middle=1, transformer_depth_output=[1] * 4, context_dim=768, dtype=torch.float32,
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
