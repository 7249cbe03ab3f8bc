"""Priors as MODELs of the host: analytic ones, experts by noise level, digits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_prior_digits import digits
from torch import Tensor

from posterior.algebra.refusal import Refusal
from posterior.diffusion.level import Level
from posterior.priors.gaussian import Gaussian, StationaryGaussian
from posterior.priors.mixture import GaussianMixture
from posterior.priors.unet import PhotoUNet

PRIORS = Path(__file__).parent.parent / "priors"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(n: int, height: int = 6, width: int = 5, seed: int = 0) -> Tensor:
    """A random IMAGE batch."""
    return torch.rand(n, height, width, 3, generator=torch.Generator().manual_seed(seed))


def signed(images: Tensor) -> Tensor:
    return 2 * images.movedim(-1, 1).double() - 1


def denoised(host, model, x: Tensor, sigma: float) -> Tensor:
    """The MODEL's x0_hat at the state x, through the host's guider."""
    import comfy.samplers

    def probe(denoise, _x, sigmas, extra_args=None, callback=None, disable=None):
        return denoise(x, sigmas[:1].expand(len(x)), **(extra_args or {}))

    samples, _ = host.sample(
        model, comfy.samplers.KSAMPLER(probe), torch.tensor([sigma, 0.0]), {"samples": torch.zeros_like(x)}
    )
    return samples.double()


def test_gaussian_and_mixture_models_are_exact(host):
    images, x, level = pictures(5), noise(2, 3, 6, 5), Level(1.0, 0.4)
    gaussian = Gaussian.from_pictures(signed(images), 0.1)
    mixture = GaussianMixture.from_centres(signed(images), 0.5)
    for node, inputs, exact in (
        ("PosteriorGaussianPrior", {"floor": 0.05}, gaussian), ("PosteriorMixturePrior", {"deviation": 0.25}, mixture),
    ):  # fmt: skip
        model = host.call(node, images=images, **inputs)
        error = denoised(host, model, x, level.sigma) - exact.denoiser(x.double(), level)
        assert error.abs().max() < 1e-4


@pytest.mark.parametrize("node", ["PosteriorGaussianPrior", "PosteriorMixturePrior", "PosteriorTexturePrior"])
def test_exact_posterior_is_bayes_rule(host, node):
    """Importance sampling: prior draws weighted by their likelihood have the posterior's mean, and give p(y)."""
    from posterior.measurement.coloured_noise import blotches
    from posterior.measurement.measurement import Measurement
    from posterior.measurement.noise import GaussianNoise
    from posterior.operators.inpainting import Inpainting

    images, sigma_y = pictures(3, 3, 2, seed=5), 0.25
    measured = Measurement.observe(
        Inpainting(torch.tensor([[[[0.0, 1], [0, 0], [1, 1]]]])), images[:1].movedim(-1, 1), GaussianNoise(sigma_y)
    )
    if node == "PosteriorTexturePrior":
        model = host.call(node, image=images[:1], floor=0.1)
    else:
        model = host.call(node, images=images, **{"floor" if "Gauss" in node else "deviation": 0.1})
    mean, samples, deviation, log_evidence = host.call(
        "PosteriorExactPosterior", model=model, measurement=measured, count=256, seed=1
    )
    prior = model.model.diffusion_model.prior((3, 3, 2))
    draws = (prior.sample(20000, 3).double() + 1) / 2
    residual = measured.y.double() - measured.operator.forward(draws)
    values = measured.operator.keep.sum() * 3
    log_weights = measured.noise.log_likelihood(residual) - values * math.log(sigma_y * math.sqrt(2 * math.pi))
    weights = log_weights.softmax(0)
    expected = torch.einsum("b,bchw->chw", weights, draws).movedim(0, -1)
    spread = torch.einsum("b,bchw->chw", weights, draws**2).movedim(0, -1) - expected**2
    assert (mean[0] - expected.clamp(0, 1)).abs().max() < 0.02
    assert (deviation[0] - spread.sqrt()).abs().max() < 0.02
    assert abs(log_evidence - (log_weights.logsumexp(0) - math.log(len(draws)))) < 0.1
    assert samples.shape == (256, 3, 2, 3)
    assert (samples.clone().mean(0) - expected.clamp(0, 1)).abs().max() < 0.05
    even = replace(measured, noise=blotches(sigma_y, 0.0, (3, 2)))  # whitened, which p(y) must not show
    same = host.call("PosteriorExactPosterior", model=model, measurement=even, count=1, seed=1)
    assert (same[0] - mean).abs().max() < 1e-4 and same[3] == pytest.approx(log_evidence, abs=1e-3)


def test_exact_posterior_refuses_what_has_none(host):
    from posterior.measurement.measurement import Measurement
    from posterior.measurement.noise import GaussianNoise
    from posterior.operators.identity import Identity

    def exact(model, size: int, batch: int = 1):
        measured = Measurement.observe(Identity(), torch.zeros(batch, 3, size, size), GaussianNoise(0.1))
        return host.call("PosteriorExactPosterior", model=model, measurement=measured, count=1, seed=0)

    texture = host.call("PosteriorTexturePrior", image=pictures(1, 8, 8), floor=0.1)
    with pytest.raises(Refusal, match="smaller picture"):
        exact(texture, 64)
    with pytest.raises(Refusal, match="batch of one"):
        exact(texture, 8, 2)
    with pytest.raises(Refusal, match="no closed form"):
        exact(host.call("PosteriorDigitsPrior"), 32)


def test_every_prior_is_guided_by_a_gradient(host):
    """Also those that work something out in their first call."""
    from posterior.measurement.measurement import Measurement
    from posterior.measurement.noise import GaussianNoise
    from posterior.operators.inpainting import Inpainting

    mask, image = torch.zeros(1, 1, 32, 32), pictures(1, 32, 32)
    mask[..., 12:] = 1
    measured = Measurement.observe(Inpainting(mask), image.movedim(-1, 1), GaussianNoise(0.02))
    models = {
        "texture": host.call("PosteriorTexturePrior", image=image, floor=0.05),
        "gaussian": host.call("PosteriorGaussianPrior", images=pictures(3, 32, 32), floor=0.05),
        "mixture": host.call("PosteriorMixturePrior", images=pictures(3, 32, 32), deviation=0.1),
    }
    for name, model in models.items():
        answer, *_, report = host.call(
            "PosteriorSolve",
            model=model,
            measurement=measured,
            estimate="samples",
            steps=16,
            seed=0,
            batch_size=1,
            cfg=1.0,
        )
        assert "Pi-GDM" in report and answer.isfinite().all(), name


def test_texture_model_is_exact_at_any_size(host):
    image = pictures(1, 12, 10)
    model = host.call("PosteriorTexturePrior", image=image, floor=0.05)
    for size in ((12, 10), (16, 9)):
        exact = StationaryGaussian.from_texture(signed(image)[0], size, 0.1)
        x = noise(2, 3, *size)
        error = denoised(host, model, x, 0.7) - exact.denoiser(x.double(), Level(1.0, 0.7))
        assert error.abs().max() < 1e-4


def test_analytic_models_refuse_another_size(host):
    model = host.call("PosteriorMixturePrior", images=pictures(2), deviation=0.1)
    with pytest.raises(Refusal, match="5 x 6 pictures and the latent is 8 x 8"):
        denoised(host, model, noise(1, 3, 8, 8), 1.0)
    with pytest.raises(Refusal, match="two or more"):
        host.call("PosteriorGaussianPrior", images=pictures(1), floor=0.1)


def test_experts_hand_over_smoothly(host):
    import comfy.model_management

    high = host.call("PosteriorGaussianPrior", images=pictures(4, seed=1), floor=0.1)
    low = host.call("PosteriorGaussianPrior", images=pictures(4, seed=2), floor=0.1)
    joined = host.call("PosteriorNoiseLevelExperts", high=high, low=low, threshold=0.5, width=0.25)
    x = noise(1, 3, 6, 5)
    for sigma in (0.1, 0.5 / 1.26, 0.45, 0.5, 0.55, 0.5 * 1.26, 3.0):
        share = min(max((math.log(sigma / 0.5) / math.log(1.25) + 1) / 2, 0), 1)
        expected = share * denoised(host, high, x, sigma) + (1 - share) * denoised(host, low, x, sigma)
        assert torch.allclose(denoised(host, joined, x, sigma), expected, atol=1e-6)
    loaded = [entry.model.model for entry in comfy.model_management.current_loaded_models]
    assert high.model in loaded and low.model in loaded
    lowest = host.call("PosteriorGaussianPrior", images=pictures(4, seed=3), floor=0.1)
    three = host.call("PosteriorNoiseLevelExperts", high=joined, low=lowest, threshold=0.1, width=0.25)
    for sigma, expert in ((0.05, lowest), (0.3, low), (3.0, high)):
        assert torch.equal(denoised(host, three, x, sigma), denoised(host, expert, x, sigma))
    inner = host.call("PosteriorNoiseLevelExperts", high=low, low=lowest, threshold=0.1, width=0.25)
    nested = host.call("PosteriorNoiseLevelExperts", high=high, low=inner, threshold=0.5, width=0.25)
    for sigma in (0.05, 0.11, 0.3, 0.55, 3.0):
        assert torch.allclose(denoised(host, nested, x, sigma), denoised(host, three, x, sigma), atol=1e-6)
    switch = host.call("PosteriorNoiseLevelExperts", high=high, low=low, threshold=0.5, width=0.0)
    assert torch.equal(denoised(host, switch, x, 0.499), denoised(host, low, x, 0.499))
    assert torch.equal(denoised(host, switch, x, 0.501), denoised(host, high, x, 0.501))


def test_gradients_flow_through_both_experts(host):
    """One step of DPS's Gaussian form in the hand-over: x0 + sigma^2 J^T r / sigma_y^2 with the mixed, linear D."""
    images = [pictures(4, seed=seed) for seed in (1, 2)]
    models = [host.call("PosteriorGaussianPrior", images=batch, floor=0.1) for batch in images]
    joined = host.call("PosteriorNoiseLevelExperts", high=models[0], low=models[1], threshold=0.5, width=0.25)
    from posterior.guidance.dps import DPSGaussian
    from posterior.host.run import Guide
    from posterior.host.sampler import GuidedSampler
    from posterior.measurement.measurement import Measurement
    from posterior.measurement.noise import GaussianNoise
    from posterior.operators.identity import Identity
    from posterior.samplers.ddim import GuidedDDIM

    y = torch.rand(1, 3, 6, 5, generator=torch.Generator().manual_seed(3))
    guide = Guide(DPSGaussian(Measurement.observe(Identity(), y, GaussianNoise(0.3))))
    sampler = GuidedSampler((guide,), GuidedDDIM(0.0))
    latent = {"samples": noise(1, 3, 6, 5, seed=4)}
    samples, _ = host.sample(joined, sampler, torch.tensor([0.5, 0.0]), latent, seed=7)

    x = latent["samples"].double() + 0.5 * noise(1, 3, 6, 5, seed=7).double()
    priors = [Gaussian.from_pictures(signed(batch), 0.2) for batch in images]
    x0 = sum(prior.denoiser(x, Level(1.0, 0.5)) for prior in priors) / 2
    residual = y.double() - (x0 + 1) / 2
    # in image units sigma_t = 0.25, and D's Jacobian, symmetric, is the same number in both units
    gradient = sum(prior.filter(residual / 0.09, lambda v: v / (v + 0.25)) for prior in priors) / 2
    assert torch.allclose(samples.double(), x0 + 2 * 0.25**2 * gradient, atol=1e-4)


def test_digits_prior_is_gray_and_exact_in_its_lifting(host):
    """x0_hat depends on the mean of the channels only, through the gray network at sigma / sqrt(3)."""
    from safetensors.torch import load_file

    from posterior.priors.unet import denoise

    weights = {k: v.float() for k, v in load_file(PRIORS / "digits_prior.safetensors").items()}
    network = PhotoUNet(**PhotoUNet.config_from_state_dict(weights))
    network.load_state_dict(weights)
    model = host.call("PosteriorDigitsPrior")
    x, sigma = noise(2, 3, 32, 32), 0.8
    with torch.no_grad():
        g = denoise(network, x.mean(1, keepdim=True), torch.full((2,), sigma / math.sqrt(3)))
    assert torch.allclose(denoised(host, model, x, sigma), g.expand(-1, 3, -1, -1).double(), atol=1e-5)


def test_digits_enlarger_knows_more_than_the_prior(host):
    """At high noise only the told picture says anything: E[x_0 | y] against E[x_0], and y met within its noise."""
    clean = digits().expand(-1, 3, -1, -1)
    small = torch.nn.functional.avg_pool2d(clean, 4) + 0.1 * noise(len(clean), 1, 8, 8)
    told = host.call("PosteriorDigitsEnlarger", small=((small + 1) / 2).clamp(0, 1).movedim(1, -1))
    x = 20 * noise(*clean.shape)
    mean = denoised(host, told, x, 20.0)
    blind = denoised(host, host.call("PosteriorDigitsPrior"), x, 20.0)
    assert (mean - clean).square().mean() < 0.25 * (blind - clean).square().mean()
    assert (torch.nn.functional.avg_pool2d(mean, 4) - small).square().mean().sqrt() < 2 * 0.1
    with pytest.raises(Refusal, match="8 x 8"):
        host.call("PosteriorDigitsEnlarger", small=torch.zeros(1, 9, 8, 3))
    with pytest.raises(Refusal, match="make the latent 32 x 32"):
        denoised(host, told, noise(len(clean), 3, 16, 16), 1.0)
