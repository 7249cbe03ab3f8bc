"""Priors as MODELs of the host: analytic ones, experts by noise level, published checkpoints, hostile files."""

from __future__ import annotations

import json
import math
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_prior_checkpoints import adm_reference, diffusers_reference
from test_prior_denoisers import random_stack
from test_prior_digits import digits
from torch import Tensor

from posterior.guidance.state import Level
from posterior.operators.errors import Refusal
from posterior.priors.dncnn import DnCNN
from posterior.priors.drunet import DRUNet
from posterior.priors.gaussian import Gaussian, StationaryGaussian
from posterior.priors.given import telling
from posterior.priors.mixture import GaussianMixture
from posterior.priors.train import Trainer, held_out_crops
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
    from posterior.operators.inpainting import Inpainting
    from posterior.operators.measurement import Measurement
    from posterior.operators.noise import GaussianNoise

    images, sigma_y = pictures(3, 3, 2, seed=5), 0.25
    measured = Measurement.observe(
        Inpainting(torch.tensor([[[[0.0, 1], [0, 0], [1, 1]]]])), images[:1].movedim(-1, 1), GaussianNoise(sigma_y)
    )
    if node == "PosteriorTexturePrior":
        model = host.call(node, image=images[:1], floor=0.1)
    else:
        model = host.call(node, images=images, **{"floor" if "Gauss" in node else "deviation": 0.1})
    mean, samples, deviation, log_evidence = host.call(
        "PosteriorExactPosterior", model=model, measurement=measured, count=500, seed=1
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
    assert samples.shape == (500, 3, 2, 3)
    assert (samples.clone().mean(0) - expected.clamp(0, 1)).abs().max() < 0.05


def test_exact_posterior_refuses_what_has_none(host):
    from posterior.operators.identity import Identity
    from posterior.operators.measurement import Measurement
    from posterior.operators.noise import GaussianNoise

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
    from posterior.host.sampler import guided_ddim_sampler
    from posterior.operators.identity import Identity
    from posterior.operators.measurement import Measurement
    from posterior.operators.noise import GaussianNoise

    y = torch.rand(1, 3, 6, 5, generator=torch.Generator().manual_seed(3))
    guide = Guide(DPSGaussian(Measurement.observe(Identity(), y, GaussianNoise(0.3))))
    sampler = guided_ddim_sampler((guide,), 0.0, "eta")
    latent = {"samples": noise(1, 3, 6, 5, seed=4)}
    samples, _ = host.sample(joined, sampler, torch.tensor([0.5, 0.0]), latent, seed=7)

    x = latent["samples"].double() + 0.5 * noise(1, 3, 6, 5, seed=7).double()
    priors = [Gaussian.from_pictures(signed(batch), 0.2) for batch in images]
    x0 = sum(prior.denoiser(x, Level(1.0, 0.5)) for prior in priors) / 2
    residual = y.double() - (x0 + 1) / 2
    # in image units sigma_t = 0.25, and D's Jacobian, symmetric, is the same number in both units
    gradient = sum(prior.filter(residual / 0.09, lambda v: v / (v + 0.25)) for prior in priors) / 2
    assert torch.allclose(samples.double(), x0 + 2 * 0.25**2 * gradient, atol=1e-4)


def alphas_bar() -> np.ndarray:
    """The linear schedule of DDPM, from its definition."""
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def folder(kind: str) -> Path:
    """The host's own folder for a kind of models."""
    import folder_paths

    path = Path(folder_paths.models_dir) / kind
    path.mkdir(parents=True, exist_ok=True)
    return path


def load(host, name: str, **inputs):
    defaults = {"schedule": "linear", "class_label": 0, "head_channels": 16, "heads": 0, "attention_order": "original"}
    return host.call("PosteriorLoadPixelCheckpoint", file=name, **{**defaults, **inputs})


def test_adm_checkpoint_denoises_at_its_own_levels(host):
    reference, _ = adm_reference("ffhq")
    torch.save(reference.state_dict(), folder("diffusion_models") / "adm.pt")
    model = load(host, "adm.pt")
    x = noise(2, 3, 16, 16)
    for t in (30, 700):
        bar = alphas_bar()[t]
        sigma = math.sqrt((1 - bar) / bar)
        with torch.no_grad():
            eps = reference((x / math.sqrt(1 + sigma**2)), torch.full((2,), float(t)))[:, :3]
        x0 = x - sigma * eps
        assert torch.allclose(denoised(host, model, x, sigma), x0.double(), atol=3e-4 * sigma)


def test_diffusers_checkpoint_reads_its_config_and_scheduler(host):
    reference, _ = diffusers_reference("ddpm")
    path = folder("diffusion_models") / "tiny" / "unet"
    path.mkdir(parents=True, exist_ok=True)
    weights = {key: value.contiguous() for key, value in reference.state_dict().items()}
    save_file(weights, path / "diffusion_pytorch_model.safetensors")
    name = "tiny/unet/diffusion_pytorch_model.safetensors"
    with pytest.raises(Refusal, match="config.json"):
        load(host, name)
    (path / "config.json").write_text(json.dumps(dict(reference.config)))
    scheduler = {"beta_schedule": "linear", "prediction_type": "v_prediction"}
    (path / "scheduler_config.json").write_text(json.dumps(scheduler))
    x, t = noise(1, 3, 16, 16), 500
    bar = alphas_bar()[t]
    sigma = math.sqrt((1 - bar) / bar)
    with torch.no_grad():
        v = reference(x * math.sqrt(bar), torch.tensor([float(t)])).sample
    x0 = bar * x - math.sqrt(1 - bar) * v
    assert torch.allclose(denoised(host, load(host, name), x, sigma), x0.double(), atol=3e-4)


class Hostile:
    def __reduce__(self):
        return (print, ("this must not be printed",))


def test_files_that_are_no_models_are_refused(host, capsys):
    path = folder("diffusion_models")
    with (path / "hostile.pt").open("wb") as file:
        pickle.dump({"state_dict": Hostile()}, file, protocol=2)
    (path / "damaged.safetensors").write_bytes(b"not a safetensors file at all")
    torch.save({"step": 3, "name": "x"}, path / "other.pt")
    save_file({"input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3)}, path / "part.safetensors")
    wrong = adm_reference("plain")[0].state_dict()
    wrong["input_blocks.0.0.weight"] = torch.zeros(32, 4, 3, 3)
    save_file(wrong, path / "latent.safetensors")
    for name, sentence in (
        ("hostile.pt", "carries code"), ("damaged.safetensors", "cannot be read"), ("other.pt", "other than weights"),
        ("part.safetensors", "not a pixel-space model"), ("latent.safetensors", "4 channels"),
    ):  # fmt: skip
        with pytest.raises(Refusal, match=sentence):
            load(host, name)
    assert "must not be printed" not in capsys.readouterr().out


def test_denoisers_are_told_apart_and_loaded(host):
    path = folder("posterior_denoisers")
    drunet = DRUNet(widths=(4, 4, 4, 4), blocks=1)
    torch.save(drunet.state_dict(), path / "drunet.pth")
    torch.save(random_stack([1, 4, 1]), path / "dncnn_gray.pth")
    torch.save(random_stack([4, 4]), path / "nothing.pth")
    gray = DnCNN(1, 4, 2)
    gray.load_state_dict(random_stack([1, 4, 1]))
    x = noise(1, 3, 16, 16)
    for name, network in (("drunet.pth", drunet), ("dncnn_gray.pth", gray)):
        model = host.call("PosteriorLoadDenoiser", file=name)
        with torch.no_grad():
            x0 = network(x, torch.tensor([math.log(0.2) / 4]))
        assert torch.allclose(denoised(host, model, x, 0.2), x0.double(), atol=1e-5)
    with pytest.raises(Refusal, match="FFDNet, DRUNet or DnCNN"):
        host.call("PosteriorLoadDenoiser", file="nothing.pth")


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
    told = host.call("PosteriorDigitsEnlarger", small=((small + 1) / 2).movedim(1, -1))
    x = 20 * noise(*clean.shape)
    mean = denoised(host, told, x, 20.0)
    blind = denoised(host, host.call("PosteriorDigitsPrior"), x, 20.0)
    assert (mean - clean).square().mean() < 0.25 * (blind - clean).square().mean()
    assert (torch.nn.functional.avg_pool2d(mean, 4) - small).square().mean().sqrt() < 2 * 0.1
    with pytest.raises(Refusal, match="8 x 8"):
        host.call("PosteriorDigitsEnlarger", small=torch.zeros(1, 9, 8, 3))
    with pytest.raises(Refusal, match="make the latent 32 x 32"):
        denoised(host, told, noise(len(clean), 3, 16, 16), 1.0)


def test_a_supervised_prior_is_trained_loaded_and_told(host, tmp_path, caplog):
    """A small network, trained for a moment on the held-out photographs themselves: from pure noise it gives what it
    was told, better than what it was told; files and measurements that do not belong together are refused."""
    trainer = Trainer(0, 3e-3, 1000, warm_up=5, network=partial(PhotoUNet, (24, 32), (1, 1), given=3), centre=20.0)
    clean, told = held_out_crops(32), telling("noise", 0.1)
    for _ in range(150):
        trainer.update(clean, told(clean, trainer.generator))
    trainer.save(tmp_path, "noise.safetensors", operator="noise", noise=0.1)
    (tmp_path / "noise.safetensors").rename(folder("diffusion_models") / "noise.safetensors")

    images = ((clean + 1) / 2).movedim(1, -1)
    identity = host.call("PosteriorIdentity")

    def seen(operator, sigma_y: float = 0.1):
        return host.call("PosteriorSimulate", image=images, operator=operator, sigma_y=sigma_y, seed=3)

    def load(file: str, measurement):
        return host.call("PosteriorLoadSupervisedPrior", file=file, measurement=measurement)

    y = seen(identity)
    model = load("noise.safetensors", y)
    mean = denoised(host, model, 80 * noise(*clean.shape), 80.0)
    assert (mean - clean).square().mean() < 0.6 * (2 * y.y - 1 - clean).square().mean()
    assert not caplog.records

    load("noise.safetensors", seen(identity, 0.3))
    assert "trained for a noise of 0.1" in caplog.text
    with pytest.raises(Refusal, match="trained for noise, and the measurement is Grayscale"):
        load("noise.safetensors", seen(host.call("PosteriorGrayscale")))
    save_file(trainer.ema.state_dict(), folder("diffusion_models") / "plain.safetensors")
    with pytest.raises(Refusal, match="not a supervised prior"):
        load("plain.safetensors", y)
    odd = {"head.weight": torch.zeros(12, 4, 3, 3)}
    save_file(odd, folder("diffusion_models") / "odd.safetensors", {"operator": "noise"})
    with pytest.raises(Refusal, match="do not fit together"):
        load("odd.safetensors", y)


@pytest.mark.parametrize(
    "node, inputs", [("PosteriorPhotoPrior", {}), ("PosteriorLoadDenoiser", {"file": "ffdnet_color.pth"})]
)
def test_shipped_and_published_weights_denoise_photographs(host, node, inputs):
    """Held-out photographs at noise 0.2 ([-1, 1] unit), against non-local means told the noise level."""
    from skimage.restoration import denoise_nl_means

    clean = held_out_crops(64)[::4]
    noisy = clean + 0.2 * noise(*clean.shape)
    x0 = denoised(host, host.call(node, **inputs), noisy, 0.2)
    classical = [denoise_nl_means(u.numpy(), 5, 9, h=0.12, sigma=0.2, channel_axis=0) for u in noisy]

    def decibel(estimate: Tensor) -> float:
        return (10 * torch.log10(4 / (estimate - clean).square().flatten(1).mean(1))).mean().item()

    assert decibel(x0) > decibel(torch.from_numpy(np.stack(classical))) + 0.8
