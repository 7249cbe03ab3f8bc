"""Latent models on the real server: whole graphs with tiny SD1.5, SDXL, SD3 checkpoints and TAESDs."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tiny_models
from PIL import Image
from safetensors.torch import load
from test_host_server import Graph, number

SIZE = 64
#: family: file writer, latent channels, conditioning
MODELS = {
    "sd15": (tiny_models.sd15, 4, {"width": 768, "pooled": 0}),
    "sdxl": (tiny_models.sdxl, 4, {"width": 2048, "pooled": 1280}),
    "sd3": (tiny_models.sd3, 16, {"width": 4096, "pooled": 2048}),
}
CASES = {
    "inpainting": ("sd15", "PosteriorPSLD", {"strength": 1.0, "gluing": 0.1}),
    "upscaling": ("sdxl", "PosteriorDiffPIR", {"trust": 1.0}),
    "deblurring": ("sd3", "PosteriorDPS", {"form": "published", "strength": 1.0, "jacobian": "exact"}),
    "JPEG": ("sd15", "PosteriorReSample", {"every": 1, "gamma": 40.0, "iterations": 3}),
}


def loaders(graph: Graph, server, family: str) -> tuple[list, list, list]:
    """MODEL, VAE and CONDITIONING of a tiny checkpoint, written where the server looks for it."""
    write, channels, conditioning = MODELS[family]
    for kind, name, make in (
        ("diffusion_models", f"latent_{family}.safetensors", write),
        ("vae", f"latent_vae_{channels}.safetensors", lambda path: tiny_models.vae(path, channels=channels)),
    ):
        folder = server.base / "models" / kind
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            make(folder / name)
    model = graph.add("UNETLoader", unet_name=f"latent_{family}.safetensors", weight_dtype="default")
    vae = graph.add("VAELoader", vae_name=f"latent_vae_{channels}.safetensors")
    return model, vae, graph.add("TestRandomConditioning", **conditioning)


def damage(graph: Graph, kind: str, photo: list) -> list:
    if kind == "inpainting":
        return graph.add("PosteriorInpainting", mask=[photo[0], 1])
    if kind == "upscaling":
        return graph.add("PosteriorSuperResolution", factor=4, kernel="bicubic")
    if kind == "deblurring":
        return graph.add("PosteriorGaussianBlur", sigma=2.0)
    return graph.add("PosteriorJPEG", quality=20, subsampling="4:2:0")


@pytest.mark.parametrize("kind", CASES)
def test_whole_graphs(server, host, kind):
    """A photo is damaged, sampled with guidance through the VAE, and decoded: finite, and not the unguided picture."""
    family, method, settings = CASES[kind]
    graph = Graph()
    model, vae, conditioning = loaders(graph, server, family)
    photo = graph.add("PosteriorExamplePhoto", photo="chelsea", damage="scratches", size=SIZE)
    operator = damage(graph, kind, photo)
    measurement = graph.add("PosteriorSimulate", image=photo, operator=operator, sigma_y=0.05, seed=0)
    latent = graph.add("PosteriorStartingPoint", measurement=measurement, start="noise", batch_size=1, vae=vae)
    guidance = graph.add(method, measurement=measurement, vae=vae, **settings)
    sigmas = graph.add("BasicScheduler", model=model, scheduler="simple", steps=3, denoise=1.0)
    saved, fits = {}, {}
    for name, guides in (("guided", {"guidance": guidance}), ("unguided", {})):
        sampler = graph.add("PosteriorGuidedDDIM", amount=1.0, noise_rule="eta", **guides)
        samples = graph.advanced(model, sampler, sigmas, latent, conditioning)
        saved[name] = graph.add("SaveLatent", samples=samples, filename_prefix=f"latents/{name}")[0]
        image = graph.add("VAEDecode", samples=samples, vae=vae)
        fits[name] = graph.add("PosteriorMeasurementFit", image=image, measurement=measurement)[0]
        if kind == "inpainting":
            image = graph.add("PosteriorKeepMeasuredPixels", image=image, measurement=measurement)
        pictures = graph.add("SaveImage", images=image, filename_prefix=name)[0]
    outputs = server.run(graph)
    tensors = {name: load(server.view(outputs[node]["latents"][0]))["latent_tensor"] for name, node in saved.items()}
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert (tensors["guided"] - tensors["unguided"]).abs().max() > 1e-3
    assert all(number(outputs, node) > 0 for node in fits.values())
    assert server.images({"": outputs[pictures]})


def test_known_pixels_over_http(server, host):
    """A PNG that went in comes out of VAE, model and Keep Measured Pixels with the same bytes where it is known."""
    generator = np.random.default_rng(0)
    original = generator.integers(0, 256, (61, 50, 3), dtype=np.uint8)  # no multiple of 8
    buffer, mask = io.BytesIO(), np.zeros((61, 50), dtype=np.uint8)
    Image.fromarray(original).save(buffer, "PNG")
    mask[20:40, 15:35] = 255
    lost = io.BytesIO()
    Image.fromarray(mask).save(lost, "PNG")
    graph = Graph()
    model, vae, conditioning = loaders(graph, server, "sd15")
    photo = graph.add("LoadImage", image=server.upload(buffer.getvalue()))
    hole = graph.add("LoadImageMask", image=server.upload(lost.getvalue()), channel="red")
    operator = graph.add("PosteriorInpainting", mask=hole)
    measurement = graph.add("PosteriorObserve", image=photo, operator=operator, sigma_y=0.0)
    images = graph.add(
        "PosteriorSolve", model=model, measurement=measurement, estimate="samples", steps=2, seed=0, batch_size=1,
        cfg=1.0, vae=vae, positive=conditioning, negative=conditioning,
    )  # fmt: skip
    kept = graph.add("PosteriorKeepMeasuredPixels", image=images, measurement=measurement)
    saved = graph.add("SaveImage", images=kept, filename_prefix="kept")[0]
    outputs = server.run(graph)
    result = np.asarray(Image.open(io.BytesIO(server.images({"": outputs[saved]})[0])))
    assert result.shape == original.shape
    assert (result[mask == 0] == original[mask == 0]).all()
    assert (result[mask > 0] != original[mask > 0]).any()
