"""What guidance of a latent model costs: time and memory of one guided step over those of the plain step.

    python3 dev.py bench latent [--quick] [--size 64] [--cases ...] [--few | --costs]

A UNet of SD1.5's full width and depth with SD's full-size VAE decoder or TAESD, random weights, float32, on the CPU,
inside the host: one step of the Guided DDIM sampler without guidance, and with DPS through the decoder in the ways of
saving memory that `host.autograd.memory_plan.MemoryPlan` has. Each case runs in a process of its own, between two plain
steps. Both steps ask the network for a positive and a negative prompt (CFG), as people work with this model, except in
the cases named "no CFG"; the decoder runs once all the same. Time is processor time, so that other work on the machine
counts little; memory is the peak of the process during the step, weights included; at 64 that is up to 10 GB. Tiles are
for larger pictures: at 64 they only cost time.

Before that the arithmetic, which no machine changes: multiplications of the network and of the decoder, forward. Their
backward passes, for the gradient of the input alone, take as many again.

The last line of the output is JSON: `multiplications` of `network` and `decoder`, in 10^9, and `rows` of `case`,
`size`, `cfg`, `checkpointing`, `seconds`, `gib`, `plain_seconds`, `plain_gib`, `time_ratio`, `memory_ratio`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..guidance.dps import DPS
from ..measurement.measurement import Measurement
from ..measurement.noise import GaussianNoise
from ..operators.inpainting import Inpainting
from ..tests.inside_host import Host
from ..tools import environment
from .few_costs import costs
from .few_steps import few

_MODEL = {"out_of_place": True, "checkpoint": True}
#: decoder, and how the gradient is made
WAYS = {
    "DPS, VAE": ("vae", {}),
    "DPS, VAE, model checkpointed": ("vae", _MODEL),
    "DPS, TAESD": ("taesd", {}),
    "DPS, TAESD, model checkpointed": ("taesd", _MODEL),
    "DPS, VAE and model checkpointed": ("vae", {**_MODEL, "decoder": True}),
    "DPS, VAE in tiles, model checkpointed": ("vae", {**_MODEL, "decoder": True, "tile": 32}),
}
#: the scale of CFG besides
CASES = {way + tail: (*WAYS[way], scale) for tail, scale in (("", 7.0), (", no CFG", 1.0)) for way in WAYS}
_COUNT = "multiplications"
SD15 = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2] * 4,
    "channel_mult": [1, 2, 4, 4], "transformer_depth": [1] * 6 + [0] * 2, "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 9 + [0] * 3, "context_dim": 768, "use_spatial_transformer": True,
    "num_heads": 8, "num_head_channels": -1,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


def randomise(network: nn.Module) -> None:
    """Weights with a gain near 1, in place."""
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.normal_(0, weight[0].numel() ** -0.5)
            else:
                weight.fill_(0.1)


def unet():
    """A MODEL of the host."""
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD15(dict(SD15))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="cpu").eval()
    randomise(model.diffusion_model)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def decoder(kind: str):
    """A VAE of the host."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.taesd.taesd import TAESD

    network = TAESD() if kind == "taesd" else AutoencoderKL(ddconfig=VAE, embed_dim=4)
    randomise(network)
    return comfy.sd.VAE(sd=network.state_dict())


def peak_memory() -> float:
    """GiB, since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def multiplications(size: int) -> dict[str, float]:
    """Of one forward pass of the network, one conditioning, and of the decoder as a gradient takes it, in 10^9."""
    from ..host.autograd.frozen import Frozen

    latent = torch.zeros(1, 4, size, size)
    counts = {}
    with torch.inference_mode():
        network, autoencoder = unet().model.diffusion_model, decoder("vae").first_stage_model
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            network(latent, torch.tensor([500.0]), torch.zeros(1, 77, 768), transformer_options={})
        counts["network"] = counter.get_total_flops() / 2e9
        with FlopCounterMode(display=False) as counter, Frozen():
            autoencoder.decode(latent)
        counts["decoder"] = counter.get_total_flops() / 2e9
    return counts


def run(host: Host, case: str, size: int) -> dict[str, float]:
    """Time and peak memory of the plain and of the guided step."""
    from ..host import run as guided_run
    from ..host.autograd.memory_plan import MemoryPlan
    from ..host.sampler import GuidedSampler
    from ..samplers.ddim import GuidedDDIM

    kind, plan, scale = CASES[case]
    guided_run.reserve = lambda *_: MemoryPlan(**plan)  # not what the free memory suggests
    with torch.inference_mode():
        model, vae = unet(), decoder(kind)

    def step(side: int, guided: bool) -> tuple[float, float]:
        mask = torch.zeros(1, 1, 8 * side, 8 * side)
        mask[..., : 4 * side] = 1
        measurement = Measurement.observe(Inpainting(mask), torch.rand(1, 3, 8 * side, 8 * side), GaussianNoise(0.0))
        sampler = GuidedSampler((guided_run.Guide(DPS(measurement), vae),) if guided else (), GuidedDDIM(0.0))
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        start = time.process_time()
        samples, _ = host.sample(
            model, sampler, torch.tensor([5.0, 2.0]), host.latent(1, 4, side, side), host.conditioning(tokens=77),
            host.conditioning(seed=5, tokens=77), cfg=scale,
        )  # fmt: skip
        seconds = time.process_time() - start
        assert samples.isfinite().all()
        return seconds, peak_memory()

    for guided in (False, True):  # to warm up
        step(8, guided)
    before, memory = step(size, False)
    seconds, gib = step(size, True)
    after, _ = step(size, False)
    plain = (before + after) / 2
    return {
        "seconds": seconds, "gib": gib, "plain_seconds": plain, "plain_gib": memory, "time_ratio": seconds / plain,
        "memory_ratio": gib / memory,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a latent of 16, and DPS through each decoder only")
    parser.add_argument("--few", action="store_true", help="few-step methods on a known posterior: see few_steps.py")
    parser.add_argument("--costs", action="store_true", help="what few-step methods cost: see few_costs.py")
    parser.add_argument("--size", type=int, help="side of the latent, 64 by itself")
    parser.add_argument("--cases", nargs="*", choices=CASES)
    parser.add_argument("--only", choices=[*CASES, _COUNT], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.few:
        few(arguments.quick)
        return
    if arguments.costs:
        costs(Host(environment.get(os.environ.get("COMFYUI_PATH"))), unet, decoder, randomise, arguments.quick)
        return
    size = arguments.size or (16 if arguments.quick else 64)
    cases = arguments.cases or list(CASES)[: 4 : 2 if arguments.quick else 1]
    if arguments.only:
        host = Host(environment.get(os.environ.get("COMFYUI_PATH")))
        torch.set_num_threads(os.cpu_count() or 1)
        counting = arguments.only == _COUNT
        print(json.dumps(multiplications(size) if counting else run(host, arguments.only, size)))
        return
    runner = Path(environment.__file__).with_name("package.py")
    variables = {**os.environ, "GOMP_SPINCOUNT": "0"}  # waiting threads must not count

    def alone(what: str) -> dict[str, float]:
        command = [sys.executable, str(runner), "posterior.benchmarks.latent", "--only", what]
        command += ["--size", str(size)]
        output = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True).stdout
        return {key: round(value, 3) for key, value in json.loads(output.splitlines()[-1]).items()}

    counts, rows = alone(_COUNT), []
    print(f"{_COUNT}, 10^9: network {counts['network']:.0f}, decoder {counts['decoder']:.0f}", flush=True)
    for case in cases:
        _, plan, scale = CASES[case]
        measured = alone(case)
        rows.append({"case": case, "size": size, "cfg": scale, "checkpointing": bool(plan), **measured})
        seconds, gib, _, _, slower, larger = measured.values()
        print(f"{case:46} {seconds:7.1f} s {gib:6.2f} GiB   time x {slower:5.2f}   memory x {larger:5.2f}", flush=True)
    print(json.dumps({"multiplications": counts, "rows": rows}))


if __name__ == "__main__":
    main()
