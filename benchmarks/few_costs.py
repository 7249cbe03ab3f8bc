"""What few-step methods cost, over the calls that they are made of; see `latent --costs`.

    TriPS-T   SD3-shaped (24 blocks, width 1536, random weights: one block stands for the 23 that are alike), the tiny
              autoencoder, CFG on, six iterations in each step, over the plain steps
    LATINO    4 steps of an SD1.5-shaped model, CFG off, and a decoding to look at the result, over four model calls,
              five decodings and five encodings; the tiny autoencoder as well, where all else counts most

In seconds of processor time, taken in turn after a first round that does not count, in one run; for TriPS-T also the
multiplications of a step at 512 x 512, which no machine changes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..guidance.base import Guidance
from ..measurement.measurement import Measurement
from ..measurement.noise import GaussianNoise
from ..operators.downscale import downscale
from ..samplers.flow_dps import TRIPS
from ..samplers.latino import LATINO
from ..tests.inside_host import Host
from .host import alternate

WIDTH, BLOCKS = 1536, 24
SD3 = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": BLOCKS, "input_size": None,
    "adm_in_channels": 2048,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": WIDTH}},
    "pos_embed_max_size": 192, "num_patches": 36864,
}  # fmt: skip


def sd3(randomise: Callable[[nn.Module], None]):
    """A MODEL of the host."""
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD3(dict(SD3))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="meta").eval()
    network = model.diffusion_model
    network.joint_blocks = nn.ModuleList([network.joint_blocks[0]] * (BLOCKS - 1) + [network.joint_blocks[-1]])
    network.to_empty(device="cpu")
    randomise(network)
    model.device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=model.device, offload_device=model.device)


def upscaling(side: int) -> Measurement:
    """Of a random picture of 8 side x 8 side, without noise, so that no fit ends before its last iteration."""
    return Measurement.observe(downscale(4, "box"), torch.rand(1, 3, 2 * side, 2 * side), GaussianNoise(0.0))


def trips(host: Host, randomise: Callable[[nn.Module], None], side: int, repeats: int) -> dict[str, float]:
    import comfy.sd
    from comfy.taesd.taesd import TAESD

    from ..host.run import Guide
    from ..host.sampler import GuidedSampler
    from ..samplers.ddim import GuidedDDIM

    autoencoder = TAESD(latent_channels=16)
    randomise(autoencoder)
    with torch.inference_mode():
        model, vae = sd3(randomise), comfy.sd.VAE(sd=autoencoder.state_dict())
    sigmas = torch.tensor([0.7, 0.4])
    prompts = [host.conditioning(tokens=154, width=4096, pooled=2048, seed=seed) for seed in (0, 1)]

    def sample(guides, sampler) -> None:
        sampler = GuidedSampler(guides, sampler)
        made, _ = host.sample(model, sampler, sigmas, host.latent(1, 16, side, side), *prompts, cfg=4.0)
        assert made.isfinite().all()

    guide = Guide(Guidance(upscaling(side)), vae)
    cases = {"plain": lambda: sample((), GuidedDDIM()), "guided": lambda: sample((guide,), TRIPS)}
    return alternate(cases, repeats, time.process_time)


def latino(host: Host, unet, decoder, kind: str, side: int, repeats: int) -> dict[str, float]:
    from ..host.run import Guide
    from ..host.sampler import GuidedSampler
    from ..samplers.ddim import GuidedDDIM

    with torch.inference_mode():
        model, vae = unet(), decoder(kind)
    sigmas, latent = torch.tensor([14.0, 5.0, 2.0, 0.7, 0.0]), host.latent(1, 4, side, side)
    picture = torch.rand(1, 8 * side, 8 * side, 3)

    def sample(guides, sampler) -> torch.Tensor:
        return host.sample(model, GuidedSampler(guides, sampler), sigmas, latent, host.conditioning(tokens=77))[0]

    @torch.inference_mode()
    def plain() -> None:
        sample((), GuidedDDIM())
        for _ in range(5):
            vae.decode(latent["samples"])
            vae.encode(picture)

    @torch.inference_mode()
    def guided() -> None:
        vae.decode(sample((guide,), LATINO()))

    guide, cases = Guide(Guidance(upscaling(side)), vae), {"plain": plain, "guided": guided}
    return alternate(cases, repeats, time.process_time)


def multiplications(side: int = 64) -> dict[str, float]:
    """Of a step with CFG, and of six iterations through the decoder: forward, backward, forward. In 10^9."""
    import comfy.supported_models
    from comfy.ldm.modules.attention import attention_pytorch
    from comfy.taesd.taesd import TAESD

    config = comfy.supported_models.SD3(dict(SD3))
    config.set_inference_dtype(torch.float32, None)
    # the host's own choice of attention asks for a device's memory
    options = {"optimized_attention_override": lambda _, *args, **kwargs: attention_pytorch(*args, **kwargs)}
    with torch.device("meta"), torch.no_grad():
        network, autoencoder = config.get_model({}, "", device="meta").diffusion_model, TAESD(latent_channels=16)
        latent = torch.zeros(2, 16, side, side)
        with FlopCounterMode(display=False) as counter:
            prompts = torch.zeros(2, 154, 4096), torch.zeros(2, 2048)
            network(latent, torch.zeros(2), *prompts, transformer_options=options)
        step = counter.get_total_flops() / 2e9
        with FlopCounterMode(display=False) as counter:
            autoencoder.decode(latent[:1])
    return {"step": step, "fit": 6 * 3 * counter.get_total_flops() / 2e9}


def costs(host: Host, unet, decoder, randomise: Callable[[nn.Module], None], quick: bool) -> None:
    """Prints the rows, JSON last. unet, decoder, randomise: of `latent`."""
    (side, repeats), counted = (16, 1) if quick else (32, 2), multiplications()
    print(f"multiplications, 10^9: {counted['step']:.0f} a step, {counted['fit']:.0f} a fit", flush=True)
    found = {}
    for name, measure in {
        "LATINO, TAESD": lambda: latino(host, unet, decoder, "taesd", side, repeats),
        "LATINO, full-size VAE": lambda: latino(host, unet, decoder, "vae", side, repeats),
        "TriPS-T, TAESD": lambda: trips(host, randomise, side, repeats),
    }.items():
        if quick and "full-size" in name:
            continue
        found[name] = measure()
        found[name]["ratio"] = found[name]["guided"] / found[name]["plain"]
        print(f"{name:22} {found[name]}", flush=True)
    print(json.dumps({"multiplications": counted, "seconds": found}))
