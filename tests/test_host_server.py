"""Guided sampling on the real server over HTTP: results, refusals, and the prompt after an accident."""

from __future__ import annotations

import io
import json
import time

import aiohttp
import numpy as np
import pytest
import tiny_models
import torch
from inside_host import awaited
from PIL import Image
from safetensors.torch import load

from posterior.tools.server import PromptError

SIZE = 64


class Graph(dict):
    """An API prompt that is written node by node."""

    @staticmethod
    def fresh() -> int:
        """A seed that no prompt has had, so that nothing comes from the server's cache."""
        return time.time_ns() % 2**40

    def add(self, class_type: str, **inputs) -> list:
        """Adds a node; gives its first output."""
        name = str(len(self) + 1)
        self[name] = {"class_type": class_type, "inputs": inputs}
        return [name, 0]

    def problem(self, size: int = SIZE, prior: str = "PosteriorLoadDenoiser", sigma_y: float = 0.0) -> tuple:
        """(MODEL, MEASUREMENT, empty LATENT, CONDITIONING): a photo with scratches."""
        photo = self.add("PosteriorExamplePhoto", photo="chelsea", damage="scratches", size=size)
        operator = self.add("PosteriorInpainting", mask=[photo[0], 1])
        measurement = self.add("PosteriorSimulate", image=photo, operator=operator, sigma_y=sigma_y, seed=self.fresh())
        inputs = {"file": "ffdnet_color.pth"} if prior == "PosteriorLoadDenoiser" else {}
        latent = self.add("PosteriorStartingPoint", measurement=measurement, start="noise", batch_size=1)
        return self.add(prior, **inputs), measurement, latent, self.add("PosteriorUnconditional")

    def guidance(self, method: str, measurement: list) -> list:
        inputs = {"DPS": {"form": "published", "strength": 1.0}, "DiffPIR": {"trust": 1.0}}.get(method, {})
        return self.add(f"Posterior{method}", measurement=measurement, **inputs)

    def fit(self, samples: list, measurement: list) -> str:
        """Adds the decoder and the fit; gives the id of the node that reports it."""
        vae = self.add("VAELoader", vae_name="pixel_space")
        image = self.add("VAEDecode", samples=samples, vae=vae)
        self.add("SaveImage", images=image, filename_prefix="test")
        return self.add("PosteriorMeasurementFit", image=image, measurement=measurement)[0]

    def advanced(self, model, sampler, sigmas, latent, conditioning, seed: int = 1) -> list:
        guider = self.add("CFGGuider", model=model, positive=conditioning, negative=conditioning, cfg=1.0)
        noise = self.add("RandomNoise", noise_seed=seed)
        return self.add(
            "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
        )


def complete(server, graph: Graph) -> Graph:
    """The prompt with the default of every input that it leaves out, as the frontend fills them in.

    Args:
        server: or what its `object_info` gave.
    """
    info = server if isinstance(server, dict) else server.object_info()
    for node in graph.values():
        for name, (_, *options) in info[node["class_type"]]["input"].get("required", {}).items():
            if options and "default" in options[0]:
                node["inputs"].setdefault(name, options[0]["default"])
    return graph


def number(outputs: dict, node: str) -> float:
    """The first number of a report: the residual's RMS, or the fit."""
    words = outputs[node]["text"][0].replace(",", "").split()
    return float(next(word for word in words if word[0].isdigit()))


@pytest.mark.parametrize(
    "method, prior",
    [*((method, "PosteriorLoadDenoiser") for method in ("DDNM", "DiffPIR", "DPS")), ("DDNM", "PosteriorPhotoPrior")],
)
def test_ksampler_and_our_sampler(server, method, prior):
    graph = Graph()
    model, measurement, latent, none = graph.problem(prior=prior)
    guidance = graph.guidance(method, measurement)
    guided = graph.add("PosteriorApplyGuidance", model=model, guidance=guidance)
    settings = {"seed": 1, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}
    by_model = graph.fit(
        graph.add("KSampler", model=guided, positive=none, negative=none, latent_image=latent, **settings), measurement
    )
    sampler = graph.add("PosteriorGuidedDDIM", amount=1.0, noise_rule="eta", guidance=guidance)
    sigmas = graph.add("BasicScheduler", model=model, scheduler="karras", steps=4, denoise=1.0)
    by_sampler = graph.fit(graph.advanced(model, sampler, sigmas, latent, none), measurement)
    unguided = graph.fit(
        graph.add("KSampler", model=model, positive=none, negative=none, latent_image=latent, **settings), measurement
    )
    outputs = server.run(complete(server, graph))
    assert all(np.asarray(Image.open(io.BytesIO(data))).std() > 1 for data in server.images(outputs))
    residuals = {node: number(outputs, node) for node in (by_model, by_sampler, unguided)}
    if method == "DPS":  # a few steps of the recipe only come nearer
        assert residuals[by_model] < residuals[unguided] and residuals[by_sampler] < residuals[unguided]
    else:  # consistent but for what is cut off outside [0, 1]
        assert max(residuals[by_model], residuals[by_sampler]) < 1e-4 < residuals[unguided]


def test_unguided_ddim_is_the_host_s_over_http(server):
    """SamplerCustom with the same seed and sigmas, latents saved by the host and read back."""
    graph = Graph()
    model, _, latent, none = graph.problem()
    sigmas = graph.add("KarrasScheduler", steps=6, sigma_max=1.5, sigma_min=0.02, rho=7.0)
    saved, samplers = {}, {name: graph.add("KSamplerSelect", sampler_name=name) for name in ("euler", "ddim")}
    samplers["ours"] = graph.add("PosteriorGuidedDDIM", amount=0.0, noise_rule="eta")
    for name, sampler in samplers.items():
        samples = graph.add(
            "SamplerCustom", model=model, add_noise=True, noise_seed=5, cfg=1.0, positive=none, negative=none,
            sampler=sampler, sigmas=sigmas, latent_image=latent,
        )  # fmt: skip
        saved[name] = graph.add("SaveLatent", samples=samples, filename_prefix=f"latents/{name}")[0]
    outputs = server.run(complete(server, graph))
    tensors = {name: load(server.view(outputs[node]["latents"][0]))["latent_tensor"] for name, node in saved.items()}
    assert tensors["ours"].std() > 0.01
    for name in ("euler", "ddim"):
        assert (tensors["ours"] - tensors[name]).abs().max() <= 1e-5


def test_convergence_plot_over_http(server):
    graph = Graph()
    model, measurement, latent, none = graph.problem(sigma_y=0.05)
    watched = graph.add("PosteriorRecordConvergence", guidance=graph.guidance("DiffPIR", measurement))
    sampler = graph.add("PosteriorGuidedODE", solver="DPM-Solver++ 2M", guidance=watched)
    sigmas = graph.add("KarrasScheduler", steps=5, sigma_max=1.5, sigma_min=0.02, rho=7.0)
    samples = graph.advanced(model, sampler, sigmas, latent, none)
    plot = graph.add("PosteriorConvergencePlot", record=[watched[0], 1], latent=samples, width=512)
    graph.add("PreviewImage", images=plot)
    (data,) = server.images(server.run(complete(server, graph)))
    assert Image.open(io.BytesIO(data)).size == (512, 512)


def test_refusals(server, host):
    """A latent model without VAE, and guidance for another size than the latent: one sentence each."""
    folder = server.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    tiny_models.sd15(folder / "tiny_sd15.safetensors")
    graph = Graph()
    _, measurement, _, none = graph.problem()
    model = graph.add("UNETLoader", unet_name="tiny_sd15.safetensors", weight_dtype="default")
    latent = graph.add("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=1)
    sampler = graph.add(
        "PosteriorGuidedDDIM", amount=0.0, noise_rule="eta", guidance=graph.guidance("DDNM", measurement)
    )
    sigmas = graph.add("BasicScheduler", model=model, scheduler="normal", steps=2, denoise=1.0)
    graph.add("SaveLatent", samples=graph.advanced(model, sampler, sigmas, latent, none), filename_prefix="x")
    with pytest.raises(PromptError) as refusal:
        server.run(complete(server, graph))
    assert str(refusal.value) == (
        "SamplerCustomAdvanced: This model works on latents, so guidance needs its VAE; connect the VAE to the "
        "guidance node."
    )
    graph = Graph()
    model, measurement, _, none = graph.problem()
    latent = graph.add("EmptyLatentImage", width=1024, height=512, batch_size=1)
    guided = graph.add("PosteriorApplyGuidance", model=model, guidance=graph.guidance("DDNM", measurement))
    samples = graph.add(
        "KSampler", model=guided, positive=none, negative=none, latent_image=latent, seed=0, steps=2, cfg=1.0,
        sampler_name="euler", scheduler="karras", denoise=1.0,
    )  # fmt: skip
    graph.add("SaveLatent", samples=samples, filename_prefix="x")
    with pytest.raises(PromptError) as refusal:
        server.run(complete(server, graph))
    assert str(refusal.value) == (
        "KSampler: The measurement speaks of a 64 x 64 picture and the latent is 128 x 64; make the latent with "
        "Starting Point from the same measurement, and give a detailer or a tiled upscaler, which samples pieces, the "
        "model without guidance."
    )


def guided_prompt(steps: int, size: int = SIZE) -> tuple[Graph, str]:
    graph = Graph()
    model, measurement, latent, none = graph.problem(size)
    sampler = graph.add(
        "PosteriorGuidedDDIM", amount=0.0, noise_rule="eta", guidance=graph.guidance("DPS", measurement)
    )
    sigmas = graph.add("KarrasScheduler", steps=steps, sigma_max=1.5, sigma_min=0.02, rho=7.0)
    samples = graph.advanced(model, sampler, sigmas, latent, none)
    return graph, graph.add("SaveLatent", samples=samples, filename_prefix="x")[0]


async def progress(server, steps: int) -> None:
    """Returns when a sampler of so many steps has made one."""
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{server.url}/ws") as socket:
        async for message in socket:
            event = json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else {}
            if event.get("type") == "progress" and event["data"]["max"] == steps and event["data"]["value"]:
                return


def test_after_an_interrupt_the_next_prompt_is_right(server):
    def result() -> torch.Tensor:
        graph, node = guided_prompt(4)
        return load(server.view(server.run(complete(server, graph))[node]["latents"][0]))["latent_tensor"]

    expected = result()
    graph, _ = guided_prompt(1000, 128)
    prompt = server.submit(complete(server, graph))
    awaited(progress(server, 1000))
    server.interrupt()
    with pytest.raises(PromptError, match="interrupted"):  # else it would end well, or in an error
        server.wait(prompt)
    assert torch.equal(result(), expected)


@pytest.mark.parametrize(
    "method, settings", [("DDRM", {"eta": 0.85, "eta_b": 1.0}), ("DSG", {"rate": 0.4, "jacobian": "none"})]
)
def test_solve_makes_samples_where_it_cannot_restore(server, method, settings):
    graph = Graph()
    model, measurement, _, _ = graph.problem(sigma_y=0.02)
    guidance = graph.add(f"Posterior{method}", measurement=measurement, **settings)
    solution = graph.add(
        "PosteriorSolve", model=model, measurement=measurement, estimate="restoration", steps=2, seed=0, batch_size=1,
        cfg=1.0, guidance=guidance,
    )  # fmt: skip
    graph.add("SaveImage", images=solution, filename_prefix="test")
    (report,) = server.run(graph)[solution[0]]["text"]
    assert f"\nsamples by {method}" in report


@pytest.mark.parametrize("estimate", ["samples", "restoration"])
def test_solve_gives_each_picture_of_a_measurement_its_own(server, estimate):
    """Three damaged pictures, one of them twice: three results, of which those two fit alike when restored."""
    graph = Graph()
    settings = {"damage": "scratches", "size": SIZE}
    cat, cup = (graph.add("PosteriorExamplePhoto", photo=name, **settings) for name in ("chelsea", "coffee"))
    batch = graph.add("ImageBatch", image1=graph.add("ImageBatch", image1=cat, image2=cup), image2=cat)
    operator = graph.add("PosteriorInpainting", mask=[cat[0], 1])
    measurement = graph.add("PosteriorSimulate", image=batch, operator=operator, sigma_y=0.0, seed=graph.fresh())
    model = graph.add("PosteriorLoadDenoiser", file="ffdnet_color.pth")
    solution = graph.add(
        "PosteriorSolve", model=model, measurement=measurement, estimate=estimate, steps=3, seed=0, batch_size=2,
        cfg=1.0,
    )  # fmt: skip
    save = graph.add("SaveImage", images=solution, filename_prefix="test")[0]
    files = server.images({"": server.run(graph)[save]})
    pictures = [np.asarray(Image.open(io.BytesIO(file))).astype(float) for file in files]
    assert len(pictures) == 3
    assert np.abs(pictures[0] - pictures[1]).mean() > 10
    assert (np.abs(pictures[0] - pictures[2]).mean() < 0.01) == (estimate == "restoration")
