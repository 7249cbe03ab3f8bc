"""Latent methods in few steps, on a problem whose posterior is known.

    python3 dev.py bench latent --few [--quick]

The linear autoencoder of the tests (patches of 8 x 8 x 3 pixels to their 16 principal components over photographs)
with the Gaussian of the photographs' latents as a flow model, pictures of 16 x 16, flow steps with SD3's shift of 3
from pure noise: the posterior is a Gaussian, and the distance of a method's samples to it is Wasserstein's, between
Gaussians of their mean and covariance, in the unit of latents (variance about 1, 64 numbers). Beside it model calls,
passes through decoder (with its gradient, without) and encoder for one sample, and residual over noise.

The last line of the output is JSON: `rows` of `damage`, `sigma_y`, `steps`, `method`, `distance`, `fit`, `calls`,
`decoded_with_gradient`, `decoded`, `encoded`; and `bounds`: the distances of samples of the prior and of the posterior
itself.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..algebra.streams import Streams
from ..diffusion.level import Level
from ..diffusion.run import Run
from ..diffusion.schedule import Schedule
from ..guidance.base import Guidance
from ..guidance.ddnm import DDNM
from ..guidance.diffpir import DiffPIR
from ..guidance.dps import DPS
from ..guidance.latent import decoded
from ..guidance.mmps import MMPS
from ..guidance.mpgd import MPGD
from ..measurement.decoded import Decoded
from ..measurement.measurement import Measurement
from ..priors.gaussian import Gaussian
from ..samplers.ddim import GuidedDDIM
from ..samplers.flair import FLAIR
from ..samplers.flow_dps import TRIPS, FlowDPS
from ..samplers.latino import LATINO

#: model calls
STEPS = (4, 8, 28, 50)
#: damage, noise
CASES = [("inpainting", 0.05), ("inpainting", 0.3), ("upscaling", 0.02)]


def flow_levels(steps: int, shift: float = 3.0, start: float = 1.0) -> list[Level]:
    """Equal steps of a flow model's time from `start` on, shifted as SD3's, down to 0."""
    times = [start * (1 - i / steps) for i in range(steps)]
    return [*(Level(1 - t, t) for t in (shift * t / (1 + (shift - 1) * t) for t in times)), Level(1.0, 0.0)]


def distance(samples: Tensor, law: Gaussian) -> float:
    """Wasserstein's distance of two Gaussians: that of the samples' moments, and the law (Dowson, Landau 1982).

    norm(m - m')^2 + tr(C + C' - 2 (C'^(1/2) C C'^(1/2))^(1/2)), the root of it.
    """
    flat = samples.flatten(1)
    mean, spread, exact = flat.mean(0), torch.cov(flat.T), law.covariance()
    values, vectors = torch.linalg.eigh(exact)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ spread @ root).clamp_min(0).sqrt().sum()
    square = (mean - law.mean.flatten()).square().sum() + spread.trace() + exact.trace() - 2 * shared
    return math.sqrt(max(square.item(), 0.0))


class Counted:
    """A codec that counts what passes through it."""

    def __init__(self, codec):
        self.codec, self.gradients, self.decoded, self.encoded = codec, 0, 0, 0

    def decode(self, z: Tensor) -> Tensor:
        self.gradients += z.requires_grad
        self.decoded += not z.requires_grad
        return self.codec.decode(z)

    def encode(self, x: Tensor) -> Tensor:
        self.encoded += 1
        return self.codec.encode(x)


def methods(measurement: Measurement, codec: Counted, steps: int) -> dict[str, tuple]:
    """Sampler and block of each."""
    carrier = Guidance(replace(measurement, operator=Decoded(measurement.operator, codec)))
    share = math.sqrt(math.prod(measurement.image_shape) / (3 * 256 * 256))  # DPS's norm grows with the size
    own = {"LATINO": LATINO(), "FlowDPS": FlowDPS(), "TriPS-T": TRIPS, "FLAIR": FLAIR()}
    blocks = {
        "DPS": DPS(measurement, share * 1000 / steps), "MPGD": MPGD(measurement), "DDNM": DDNM(measurement),
        "DiffPIR": DiffPIR(measurement, deviation=1.0), "MMPS": MMPS(measurement),
    }  # fmt: skip
    found = {name: (GuidedDDIM(1.0), decoded(block, codec)) for name, block in blocks.items()}
    return found | {name: (sampler, carrier) for name, sampler in own.items()}


def rows(quick: bool) -> tuple[list[dict], dict]:
    """What each method gives, printed as it comes; and the distances of the prior and of the posterior itself."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from test_latent import CODEC, LATENT, dense, latent_prior, pictured

    torch.set_num_threads(1)
    prior, samples, found, bounds = latent_prior(), 50 if quick else 400, [], {}
    for kind, sigma in CASES[: 1 if quick else None]:
        measurement, law = pictured(kind, sigma), prior.posterior(dense(kind, sigma))
        laws = {"prior": prior, "exact": law}
        ends = {name: round(distance(each.sample(samples, 1), law), 3) for name, each in laws.items()}
        bounds[f"{kind} {sigma}"] = ends
        print(f"\n{kind}, noise {sigma}: distance of the prior {ends['prior']}, of exact samples {ends['exact']}")
        print("steps method    distance    fit  calls; decoded with gradient, without; encoded")
        for steps in STEPS[: 2 if quick else None]:
            for name in methods(measurement, Counted(CODEC), steps):
                calls, codec = [], Counted(CODEC)
                sampler, block = methods(measurement, codec, steps)[name]

                def denoiser(x: Tensor, t: Level, calls=calls) -> Tensor:
                    calls.append(1)
                    return prior.denoiser(x, t)

                run = Run(denoiser, flow_levels(steps), [block], Streams(1, "sampling"), schedule=Schedule("flow"))
                z = sampler(run, Streams(2, "noise").normal(torch.empty(samples, *LATENT, dtype=torch.float64)))
                counts = {
                    "calls": len(calls), "decoded_with_gradient": codec.gradients, "decoded": codec.decoded,
                    "encoded": codec.encoded,
                }  # fmt: skip
                far, fit = distance(z, law), measurement.fit(CODEC.decode(z)).mean().item()
                row = {"damage": kind, "sigma_y": sigma, "steps": steps, "method": name}
                row |= {"distance": round(far, 3), "fit": round(fit, 3), **counts}
                found.append(row)
                passes = "".join(f"{count:7}" for count in counts.values())
                print(f"{steps:5} {name:8} {far:9.3f} {fit:7.2f}{passes}", flush=True)
    return found, bounds


def few(quick: bool) -> None:
    """Prints the table, JSON last."""
    found, bounds = rows(quick)
    print(json.dumps({"rows": found, "bounds": bounds}))
