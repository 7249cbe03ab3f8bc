"""How likely pictures are, in the host: exact for a Gaussian MODEL, for flow and latent models too."""

from __future__ import annotations

import math

import pytest
import tiny_models
import torch
from guided_host import SIZE, gaussian_model

from posterior.algebra.refusal import Refusal
from posterior.diffusion.level import Level


@pytest.fixture(scope="module")
def gaussian(host):
    return gaussian_model(host)


def as_flow(model):
    """The same network as a flow model: x_t = (1 - s) x_0 + s z is the exploding state at s / (1 - s), scaled."""
    import comfy.model_sampling

    class Sampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        def timestep(self, sigma):
            return (sigma / (1 - sigma)).log() / 4

        def calculate_input(self, sigma, noise):
            return noise / (1 - sigma.reshape(-1, 1, 1, 1))

        def calculate_denoised(self, sigma, model_output, model_input):
            return model_output

    flow = model.clone()
    flow.add_object_patch("model_sampling", Sampling(model.model.model_config))
    return flow


@pytest.mark.parametrize("flow", [False, True], ids=["exploding", "flow"])
def test_a_gaussian_model_s_number_is_its_log_density(host, gaussian, flow):
    model = as_flow(gaussian) if flow else gaussian
    images = torch.rand(6, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))[:3]
    bits, report = host.call("PosteriorHowLikely", model=model, image=images, levels=100, draws=20)
    prior = gaussian.model.diffusion_model.prior((3, SIZE, SIZE))
    x = 2 * images.movedim(-1, 1) - 1
    d = x[0].numel()
    exact = math.log2(127.5) - prior.log_prob(x, Level(1.0, 0.01)) / (d * math.log(2))
    assert bits == pytest.approx(exact.mean().item(), abs=0.04)  # the noises' standard error is 0.01
    assert "likeliest is picture" in report and f"{d} numbers" in report


def test_less_likely_pictures_have_more_bits(host, gaussian):
    images = torch.rand(6, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    mean = images.mean(0, keepdim=True)
    pictures = (mean, images[:1], 1 - mean)
    few = [host.call("PosteriorHowLikely", model=gaussian, image=x, levels=12)[0] for x in pictures]
    assert few == sorted(few) and few[2] > few[0] + 1


def test_a_latent_model_needs_its_vae_and_a_prompt(host, tmp_path):
    sd15 = tiny_models.load(tiny_models.sd15(tmp_path / "sd15.safetensors"))
    vae = tiny_models.load_vae(tiny_models.vae(tmp_path / "vae.safetensors"))
    image = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    with pytest.raises(Refusal, match="needs a prompt"):
        host.call("PosteriorHowLikely", model=sd15, image=image, vae=vae)
    with pytest.raises(Refusal, match="connect its VAE"):
        host.call("PosteriorHowLikely", model=sd15, image=image, positive=host.conditioning())
    inputs = {"model": sd15, "image": image, "vae": vae, "positive": host.conditioning(), "levels": 4}
    bits, report = host.call("PosteriorHowLikely", **inputs)
    assert math.isfinite(bits) and "256 numbers" in report
    assert bits == host.call("PosteriorHowLikely", **inputs)[0]  # a seed is a number
