"""Priors on the real server over HTTP, in the host's own sampler and in Solve."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from test_host_server import Graph

from posterior.priors.train import Trainer
from posterior.priors.unet import PhotoUNet
from posterior.tools.server import PromptError


def picture(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=np.float64) / 255


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray((array.clip(0, 1) * 255).round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def slope(image: np.ndarray) -> float:
    """Share of the variance that lies between neighbours: small for coarse textures, 2 for white noise."""
    return np.mean(np.diff(image, axis=1) ** 2) / image.var((0, 1)).mean()


def test_ksampler_makes_more_of_a_texture(server):
    """Other pixels, but the mean, the deviation and the grain of the picture, at another size."""
    # one seed: a picture this small is grainier or smoother than its texture by chance, in one of thirty by over twice
    field = np.random.default_rng(0).standard_normal((48, 48))
    wave = np.fft.fftfreq(48)[:, None] ** 2 + np.fft.fftfreq(48) ** 2
    field = np.fft.ifft2(np.fft.fft2(field) * np.exp(-wave * 250)).real
    texture = np.array([0.6, 0.5, 0.35]) + 0.12 * (field / field.std())[..., None] * np.array([1.0, 0.8, 0.5])
    graph = Graph()
    image = graph.add("LoadImage", image=server.upload(png(texture)))
    model = graph.add("PosteriorTexturePrior", image=image, floor=0.01)
    empty = graph.add("EmptyImage", width=96, height=64, batch_size=2, color=0)
    vae = graph.add("VAELoader", vae_name="pixel_space")
    latent = graph.add("VAEEncode", pixels=empty, vae=vae)
    none = graph.add("PosteriorUnconditional")
    samples = graph.add(
        "KSampler", model=model, seed=0, steps=25, cfg=1.0, sampler_name="heun", scheduler="karras",
        positive=none, negative=none, latent_image=latent, denoise=1.0,
    )  # fmt: skip
    graph.add("SaveImage", images=graph.add("VAEDecode", samples=samples, vae=vae), filename_prefix="texture")
    made = [picture(content) for content in server.images(server.run(graph))]
    assert [image.shape for image in made] == [(64, 96, 3)] * 2
    assert np.abs(made[0] - made[1]).mean() > 0.05
    for image in made:
        assert np.abs(image.mean((0, 1)) - texture.mean((0, 1))).max() < 0.12
        assert 0.6 < image.std((0, 1)).mean() / texture.std((0, 1)).mean() < 1.6
        assert 0.5 < slope(image) / slope(texture) < 2


def test_a_supervised_prior_answers_in_one_step(server):
    """A file of priors/train.py with random weights: KSampler makes a picture; the wrong damage is refused at once."""
    torch.manual_seed(0)
    trainer = Trainer(0, 1e-3, 100, network=partial(PhotoUNet, (8, 8), (1, 1), given=3))
    folder = server.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    trainer.save(folder, "supervised.safetensors", operator="super_resolution_x4", noise=0.02)

    def graph_of(factor: int) -> Graph:
        graph = Graph()
        photo = graph.add("PosteriorExamplePhoto", photo="chelsea", damage="scratches", size=64)
        operator = graph.add("PosteriorSuperResolution", factor=factor, kernel="bicubic")
        seen = graph.add("PosteriorSimulate", image=photo, operator=operator, sigma_y=0.02, seed=0)
        model = graph.add("PosteriorLoadSupervisedPrior", file="supervised.safetensors", measurement=seen)
        latent = graph.add("PosteriorStartingPoint", measurement=seen, start="noise", batch_size=2)
        none = graph.add("PosteriorUnconditional")
        samples = graph.add(
            "KSampler", model=model, seed=0, steps=1, cfg=1.0, sampler_name="euler", scheduler="karras",
            positive=none, negative=none, latent_image=latent, denoise=1.0,
        )  # fmt: skip
        vae = graph.add("VAELoader", vae_name="pixel_space")
        graph.add("SaveImage", images=graph.add("VAEDecode", samples=samples, vae=vae), filename_prefix="told")
        return graph

    made = [picture(content) for content in server.images(server.run(graph_of(4)))]
    assert [image.shape for image in made] == [(64, 64, 3)] * 2
    with pytest.raises(PromptError, match="trained for super resolution x4, and the measurement is Downscale"):
        server.run(graph_of(2))
    assert server.images(server.run(graph_of(4)))


@pytest.mark.parametrize("prior", ["experts", "digits"])
def test_solve_uses_every_prior(server, prior):
    graph = Graph()
    if prior == "experts":
        photo = graph.add("PosteriorExamplePhoto", photo="chelsea", damage="scratches", size=64)
        image, mask, estimate = photo, [photo[0], 1], "restoration"
        low = graph.add("PosteriorLoadDenoiser", file="ffdnet_color.pth")
        high = graph.add("PosteriorPhotoPrior")
        model = graph.add("PosteriorNoiseLevelExperts", high=high, low=low, threshold=0.5, width=0.1)
    else:
        with Image.open(server.clone / "photos" / "digits.png") as digits:
            tile = np.asarray(digits.convert("RGB").crop((96, 32, 128, 64)), dtype=np.float64) / 255
        image = graph.add("LoadImage", image=server.upload(png(tile)))
        hidden = np.zeros((32, 32, 3))
        hidden[:, 16:] = 1
        mask = graph.add("LoadImageMask", image=server.upload(png(hidden)), channel="red")
        model, estimate = graph.add("PosteriorDigitsPrior"), "samples"
    operator = graph.add("PosteriorInpainting", mask=mask)
    measurement = graph.add("PosteriorSimulate", image=image, operator=operator, sigma_y=0.0, seed=graph.fresh())
    solved = graph.add(
        "PosteriorSolve", model=model, measurement=measurement, estimate=estimate, steps=10, seed=1, batch_size=1,
        cfg=1.0,
    )  # fmt: skip
    graph.add("SaveImage", images=solved, filename_prefix="solved")
    graph.add("SaveImage", images=image, filename_prefix="truth")
    graph.add("MaskPreview", mask=mask)
    outputs = server.run(graph)
    one = {node["inputs"].get("filename_prefix", node["class_type"]): name for name, node in graph.items()}
    result, truth, lost = (
        picture(server.images({name: outputs[one[name]]})[0]) for name in ("solved", "truth", "MaskPreview")
    )
    known = lost < 0.5
    assert np.abs(result - truth)[known].max() < 2 / 255
    assert np.square(result - truth)[~known].mean() < 0.7 * np.square(truth)[~known].mean()
