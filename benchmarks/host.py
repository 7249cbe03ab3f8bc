"""What guidance costs in the host, as ratios of costs taken in turn in one run; the last line is JSON.

On the CPU, with one thread, and in seconds of processor time: what other programs do meanwhile hardly counts.

    server: DDNM, DiffPIR   a whole prompt with Guided DDIM over the same prompt with the host's own `ddim`
    DPS                     SamplerCustomAdvanced with Guided DDIM over as many bare passes forward and backward
    inside: unguided        SamplerCustomAdvanced with Guided DDIM over the host's own `ddim`

    python3 dev.py bench host [--quick] [--steps N] [--size N] [--repeats N]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch

from ..tests.inside_host import Host
from ..tools import environment
from ..tools.server import Server


def alternate(cases: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Least seconds of each case, all of them taken in turn after a first round that does not count."""
    seconds = {name: [] for name in cases}
    for _ in range(repeats + 1):
        for name, case in cases.items():
            start = clock()
            case()
            seconds[name].append(clock() - start)
    return {name: min(values[1:]) for name, values in seconds.items()}


def prompt(sampler: str, size: int, steps: int) -> dict[str, Any]:
    """An API prompt that repairs the example photo; a new seed each time, so that nothing comes from a cache."""
    seed = time.time_ns() % 2**40
    guided = sampler in ("DDNM", "DiffPIR")
    nodes = {
        "photo": ("PosteriorExamplePhoto", {"photo": "chelsea", "damage": "scratches", "size": size}),
        "operator": ("PosteriorInpainting", {"mask": ["photo", 1]}),
        "measurement": (
            "PosteriorSimulate",
            {"image": ["photo", 0], "operator": ["operator", 0], "sigma_y": 0.02 * (sampler == "DiffPIR"), "seed": 0},
        ),
        "model": ("PosteriorPhotoPrior", {}),
        "latent": ("PosteriorStartingPoint", {"measurement": ["measurement", 0], "start": "noise", "batch_size": 1}),
        "none": ("PosteriorUnconditional", {}),
        "guider": ("BasicGuider", {"model": ["model", 0], "conditioning": ["none", 0]}),
        "noise": ("RandomNoise", {"noise_seed": seed}),
        "sigmas": ("KarrasScheduler", {"steps": steps, "sigma_max": 80.0, "sigma_min": 0.02, "rho": 7.0}),
        "sampler": ("KSamplerSelect", {"sampler_name": "ddim"}),
        "samples": (
            "SamplerCustomAdvanced",
            {"latent_image": ["latent", 0], **{key: [key, 0] for key in ("noise", "guider", "sampler", "sigmas")}},
        ),
        "saved": ("SaveLatent", {"samples": ["samples", 0], "filename_prefix": "bench"}),
    }
    if guided:
        method = {"measurement": ["measurement", 0]} | ({"trust": 1.0} if sampler == "DiffPIR" else {})
        nodes["guidance"] = (f"Posterior{sampler}", method)
        nodes["sampler"] = ("PosteriorGuidedDDIM", {"amount": 0.0, "noise_rule": "eta", "guidance": ["guidance", 0]})
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def through_the_server(size: int, steps: int, repeats: int) -> list[dict[str, Any]]:
    names = ("ddim", "DDNM", "DiffPIR")
    with Server(environment.get(os.environ.get("COMFYUI_PATH")), cpu=True) as server:
        process = psutil.Process(server.process.pid)
        cases = {name: lambda n=name: server.run(prompt(n, size, steps)) for name in names}
        seconds = alternate(cases, repeats, lambda: sum(process.cpu_times()[:2]))
    return [{"case": f"server: {name} / ddim", "ratio": seconds[name] / seconds["ddim"]} for name in names[1:]]


def inside(size: int, steps: int, repeats: int) -> list[dict[str, Any]]:
    host = Host(environment.get(os.environ.get("COMFYUI_PATH")))  # with one thread
    photo, mask = host.call("PosteriorExamplePhoto", size=size)
    operator = host.call("PosteriorInpainting", mask=mask)
    measurement = host.call("PosteriorSimulate", image=photo, operator=operator, sigma_y=0.0, seed=0)
    guidance = host.call("PosteriorDPS", measurement=measurement, form="published", strength=1.0)
    model = host.call("PosteriorPhotoPrior")
    sigmas = host.call("KarrasScheduler", steps=steps, sigma_max=80.0, sigma_min=0.02, rho=7.0)
    latent = host.latent(1, 3, size, size)
    plain = host.call("PosteriorGuidedDDIM", amount=0.0, noise_rule="eta")
    guided = host.call("PosteriorGuidedDDIM", amount=0.0, noise_rule="eta", guidance=guidance)
    network = copy.deepcopy(model.model.diffusion_model)
    for module in network.modules():
        for name, weight in module._parameters.items():
            module._parameters[name] = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
    x, t = torch.randn(1, 3, size, size), torch.full((1,), 0.1)

    def bare() -> None:
        for _ in range(steps):
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(network(leaf, t).square().sum(), leaf)

    cases = {
        "ddim": lambda: host.sample(model, "ddim", sigmas, latent),
        "unguided": lambda: host.sample(model, plain, sigmas, latent),
        "DPS": lambda: host.sample(model, guided, sigmas, latent),
        "bare": bare,
    }
    seconds = alternate(cases, repeats, time.process_time)
    return [
        {"case": "inside: unguided Guided DDIM / ddim", "ratio": seconds["unguided"] / seconds["ddim"]},
        {"case": "inside: DPS / bare forward + backward", "ratio": seconds["DPS"] / seconds["bare"]},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller and shorter")
    parser.add_argument("--size", type=int, help="side of the photo, pixels")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--repeats", type=int)
    options = parser.parse_args()
    size, steps = options.size or (128 if options.quick else 256), options.steps or (8 if options.quick else 20)
    repeats = options.repeats or (3 if options.quick else 5)
    os.environ["OMP_NUM_THREADS"] = "1"  # the server's threads
    rows = inside(size, steps, repeats) + through_the_server(size, steps, repeats)
    for row in rows:
        print(f"{row['case']:45s} {row['ratio']:.3f}")
    print(json.dumps({"rows": rows, "size": size, "steps": steps}))


if __name__ == "__main__":
    main()
