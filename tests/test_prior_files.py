"""Priors from files in the host's folders: published checkpoints and denoisers, hostile files, a supervised prior."""

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
from test_prior_host import denoised, noise
from torch import Tensor

from posterior.algebra.refusal import Refusal
from posterior.priors.dncnn import DnCNN
from posterior.priors.drunet import DRUNet
from posterior.priors.given import telling
from posterior.priors.train import Trainer, held_out_crops
from posterior.priors.unet import PhotoUNet


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
