"""How good the embedded priors are: restoration of held-out photographs, and of digits, against classical answers.

    python benchmarks/prior.py [--quick] [--sheet sheet.png]

Photographs: crops of 128 x 128 that no prior has seen. Ours is the annealed restoration with DiffPIR's data step (a
MAP-like estimate, 30 model calls from sigma 0.4 to 0.03, DPIR's lambda 0.23), for pure noise one call of the denoiser
(the posterior mean); once with the embedded prior alone, once with FFDNet below sigma 0.5. Nothing of ours is tuned by task. The
baseline is the best of the classical methods, each with its parameter tuned on the true pictures, task by task.
A sample is not a mean: single samples have a lower PSNR and look sharper, so the contact sheet shows both.

Digits: how often a classifier that knows nothing of our priors sees the true digit in one whose half was filled in.

The last line of the output is JSON. Levels of noise are in units of pictures in [-1, 1].
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
_spec = importlib.util.spec_from_file_location("_posterior_package", ROOT / "tools" / "package.py")
_package = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_package)
_package.register()

from posterior.guidance.base import conditional_denoiser  # noqa: E402
from posterior.guidance.diffpir import DiffPIR  # noqa: E402
from posterior.guidance.pigdm import PiGDM  # noqa: E402
from posterior.guidance.state import Level  # noqa: E402
from posterior.operators.convolution import CircularConvolution  # noqa: E402
from posterior.operators.downscale import downscale  # noqa: E402
from posterior.operators.identity import Identity  # noqa: E402
from posterior.operators.inpainting import Inpainting  # noqa: E402
from posterior.operators.kernels import gaussian  # noqa: E402
from posterior.operators.measurement import Measurement  # noqa: E402
from posterior.operators.noise import GaussianNoise, sample_generators  # noqa: E402
from posterior.operators.smooth import smooth_inverse  # noqa: E402
from posterior.priors import digits  # noqa: E402
from posterior.priors.ffdnet import FFDNet  # noqa: E402
from posterior.priors.gray import GrayAsColour  # noqa: E402
from posterior.priors.train import held_out_crops  # noqa: E402
from posterior.priors.unet import PhotoUNet, denoise  # noqa: E402
from posterior.samplers.annealed import annealed_restoration  # noqa: E402
from posterior.samplers.ddim import guided_ddim  # noqa: E402
from posterior.tools import environment  # noqa: E402

Prior = Callable[[Tensor, Level], Tensor]


# Priors, on pictures in [0, 1]


def in_image_units(network: Callable[[Tensor, Tensor], Tensor]) -> Prior:
    """A network (x in [-1, 1] plus noise, sigma) as (u_t, level) to u_0."""
    return lambda u, t: (network(2 * u - 1, u.new_full((len(u),), 2 * t.sigma)) + 1) / 2


def photo_prior() -> Prior:
    weights = {key: value.float() for key, value in load_file(ROOT / "priors" / "photo_prior.safetensors").items()}
    network = PhotoUNet(**PhotoUNet.config_from_state_dict(weights)).eval().requires_grad_(False)
    network.load_state_dict(weights)
    return in_image_units(lambda x, sigma: denoise(network, x, sigma))


def ffdnet() -> Prior:
    folder = environment.get(os.environ.get("COMFYUI_PATH")).models[-1]
    weights = torch.load(folder / "posterior_denoisers" / "ffdnet_color.pth", weights_only=True)
    network = FFDNet(**FFDNet.config_from_state_dict(weights)).eval().requires_grad_(False)
    network.load_state_dict(weights)
    return lambda u, t: network.denoise(u, u.new_full((len(u),), t.sigma))


def experts(high: Prior, low: Prior, threshold: float = 0.5, width: float = 0.1) -> Prior:
    """The mixture of the node Noise-Level Experts."""

    def mixed(u: Tensor, t: Level) -> Tensor:
        share = min(max((math.log(2 * t.sigma / threshold) / math.log1p(width) + 1) / 2, 0.0), 1.0)
        return (share * high(u, t) if share > 0 else 0.0) + ((1 - share) * low(u, t) if share < 1 else 0.0)

    return mixed


# Tasks and estimates


def level(sigma: float) -> Level:
    """A level in the unit of [-1, 1], as pictures in [0, 1] see it."""
    return Level(1.0, sigma / 2, 2.0)


def tasks(clean: Tensor) -> dict[str, Measurement]:
    """The measurements, `B 3 128 128` in [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    lost = torch.rand(1, 1, *clean.shape[2:], generator=generator)
    hole, scratches = torch.zeros(1, 1, *clean.shape[2:]), torch.zeros(1, 1, *clean.shape[2:])
    hole[..., 52:76, 52:76] = 1
    rows = torch.arange(clean.shape[2])
    for start, slope in ((8, 0.3), (40, -0.2), (70, 0.45), (105, 0.1), (20, 0.7)):
        for offset in range(3):
            scratches[0, 0, rows, ((start + slope * rows).long() + offset) % clean.shape[3]] = 1
    blur = CircularConvolution(gaussian(2.0))

    def measured(operator, sigma: float = 0.0) -> Measurement:
        return Measurement.simulate(operator, clean, GaussianNoise(sigma / 2), seed=0)

    return {
        "denoise 0.1": measured(Identity(), 0.1),
        "denoise 0.2": measured(Identity(), 0.2),
        "denoise 0.5": measured(Identity(), 0.5),
        "deblur 2 px, noise 0.02": measured(blur, 0.02),
        "super-resolution x4": measured(downscale(4)),
        "random pixels, half lost": measured(Inpainting((lost < 0.5).float())),
        "random pixels, 80 % lost": measured(Inpainting((lost < 0.8).float())),
        "hole of 24 x 24": measured(Inpainting(hole)),
        "scratches of 3 px": measured(Inpainting(scratches)),
    }


def restore(prior: Prior, measurement: Measurement, steps: int = 30) -> Tensor:
    if isinstance(measurement.operator, Identity):
        return prior(measurement.y, level(2 * measurement.noise.sigma))
    start = smooth_inverse(measurement.operator, measurement.y).clamp(0, 1)
    levels = [*map(level, torch.logspace(math.log10(0.4), math.log10(0.03), steps).tolist()), level(0.0)]
    return annealed_restoration(conditional_denoiser(prior, [DiffPIR(measurement, trust=0.23)]), start, levels)


def sample(prior: Prior, measurement: Measurement, shape: tuple[int, ...], steps: int, seed: int = 0) -> Tensor:
    """Posterior samples: guided DDIM, ancestral, with Pi-GDM, from pure noise."""
    ramp = torch.linspace(20.0 ** (1 / 7), 0.02 ** (1 / 7), steps) ** 7
    levels = [*map(level, ramp.tolist()), level(0.0)]
    generators = sample_generators(seed, shape[0])
    start = levels[0].sigma * torch.stack([torch.randn(shape[1:], generator=g) for g in generators]) + 0.5
    return guided_ddim(conditional_denoiser(prior, [PiGDM(measurement)]), start, levels, 1.0, "eta", generators)


def psnr(x: Tensor, clean: Tensor) -> float:
    """Mean over the pictures, dB."""
    error = (x.clamp(0, 1) - clean).square().flatten(1).mean(1)
    return (-10 * error.log10()).mean().item()


# Classical answers, tuned on the truth


def total_variation(measurement: Measurement, weight: float, rounds: int = 60) -> Tensor:
    """argmin norm(A x - y)^2 / 2 + weight TV(x) by ADMM; for clean measurements TV under A x = y."""
    from deepinv.models import TVDenoiser

    operator, y = measurement.operator, measurement.y
    exact = measurement.noise.sigma == 0
    z = smooth_inverse(operator, y)
    if isinstance(operator, Identity):
        return TVDenoiser(n_it_max=200)(y, ths=weight)
    dual, rho, shrink = torch.zeros_like(z), weight / 0.02, TVDenoiser(n_it_max=40)
    for _ in range(rounds):
        v = z - dual
        x = v + operator.pinv(y - operator(v)) if exact else operator.prox(v, y, rho)
        z = shrink(x + dual, ths=0.02)
        dual = dual + x - z
    return x


def wiener(operator: CircularConvolution, y: Tensor, weight: float) -> Tensor:
    """argmin norm(k * x - y)^2 + weight norm(grad x)^2 on the torus."""
    transfer = operator.transfer(y)
    frequencies = torch.fft.fftfreq(y.shape[-2])[:, None] ** 2 + torch.fft.rfftfreq(y.shape[-1]) ** 2
    gain = transfer.conj() / (transfer.abs() ** 2 + weight * (2 * math.pi) ** 2 * frequencies)
    return torch.fft.irfft2(gain * torch.fft.rfft2(y), s=y.shape[-2:])


def each(function: Callable[[np.ndarray], np.ndarray], x: Tensor) -> Tensor:
    return torch.stack([torch.from_numpy(function(u.movedim(0, -1).numpy())).movedim(-1, 0).float() for u in x])


def classical(measurement: Measurement, quick: bool) -> dict[str, Callable[[], Tensor]]:
    """The candidates, by name."""
    from skimage.restoration import denoise_nl_means, inpaint_biharmonic

    operator, y, sigma = measurement.operator, measurement.y, measurement.noise.sigma
    found: dict[str, Callable[[], Tensor]] = {}
    weights = [0.5, 1.0, 2.0] if quick else [0.25, 0.4, 0.63, 1.0, 1.6]
    for weight in weights if sigma else [1.0]:
        found[f"total variation, {weight}"] = lambda w=weight: total_variation(measurement, w * max(sigma, 0.02))
    if isinstance(operator, Identity):
        for strength in (0.6, 0.8, 1.0):
            found[f"non-local means, {strength}"] = lambda h=strength: each(
                lambda u: denoise_nl_means(u, 5, 9, h=h * sigma, sigma=sigma, channel_axis=-1), y
            )
    elif isinstance(operator, Inpainting):
        mask = operator.keep[0, 0].numpy() == 0
        found["thin plate"] = lambda: smooth_inverse(operator, y, 1e-3)
        found["biharmonic"] = lambda: each(lambda u: inpaint_biharmonic(u, mask, channel_axis=-1), y)
    elif isinstance(operator, CircularConvolution):
        for ratio in (0.5, 1.0, 2.0, 4.0, 8.0):  # Wiener, for a spectrum of 1 / f^2
            found[f"Wiener, {ratio}"] = lambda r=ratio: wiener(operator, y, 30 * r * sigma**2)
    else:
        found["bicubic"] = lambda: F.interpolate(y, scale_factor=4.0, mode="bicubic")
        found["thin plate"] = lambda: smooth_inverse(operator, y, 1e-3)
    return found


def photographs(quick: bool, sheet: Path | None) -> list[dict[str, Any]]:
    clean = ((held_out_crops() + 1) / 2)[::2][: 3 if quick else None]
    embedded = photo_prior()
    priors = {"embedded prior": embedded, "with FFDNet": experts(embedded, ffdnet())}
    rows, pictures = [], []
    for name, measurement in tasks(clean).items():
        candidates = {key: make() for key, make in classical(measurement, quick).items()}
        best = max(candidates, key=lambda key: psnr(candidates[key], clean))
        answers = {key: restore(prior, measurement) for key, prior in priors.items()}
        pure = isinstance(measurement.operator, Identity)
        estimate = "posterior mean, 1 call" if pure else "annealed restoration (DiffPIR), 30 calls"
        for key, answer in answers.items():
            row = {
                "task": name, "prior": key, "psnr": round(psnr(answer, clean), 2),
                "estimate": estimate,
                "baseline": best, "psnr_baseline": round(psnr(candidates[best], clean), 2),
            }  # fmt: skip
            row["gain_db"] = round(row["psnr"] - row["psnr_baseline"], 2)
            rows.append(row)
            print(f"{name:26} {key:15} {row['psnr']:6.2f} dB   {best:22} {row['psnr_baseline']:6.2f} dB", flush=True)
        if sheet:
            two = replace(measurement, y=measurement.y[:2])
            drawn = sample(priors["with FFDNet"], two, tuple(clean[:2].shape), 20 if quick else 40)
            seen = F.interpolate(two.y, clean.shape[-2:])
            columns = (clean, seen, candidates[best], *answers.values(), drawn)
            pictures.append(torch.cat([torch.cat([c[i] for c in columns], 2) for i in range(2)], 2))
    if sheet:
        image = (torch.cat(pictures, 1).clamp(0, 1) * 255).round().byte().movedim(0, -1)
        Image.fromarray(image.numpy()).save(sheet)
    return rows


# Digits


class Classifier:
    """Ridge regression on random cosine features (Rahimi and Recht 2007): independent of every prior here."""

    def __init__(self, pictures: Tensor, classes: Tensor, features: int = 3000):
        generator = torch.Generator().manual_seed(0)
        self.w = torch.randn(pictures[0].numel(), features, generator=generator) * 0.045
        self.b = 2 * math.pi * torch.rand(features, generator=generator)
        h = self._features(pictures)
        gram = h.T @ h + 0.1 * torch.eye(features)
        self.v = torch.linalg.solve(gram, h.T @ F.one_hot(classes, 10).float())

    def _features(self, pictures: Tensor) -> Tensor:
        return (pictures.flatten(1) @ self.w + self.b).cos()

    def __call__(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Classes, and the lead of the first over the second."""
        first, second = (self._features(pictures) @ self.v).topk(2, 1).values.T
        return (self._features(pictures) @ self.v).argmax(1), first - second


def digit_rows(quick: bool) -> list[dict[str, Any]]:
    weights = {f"gray.{k}": v.float() for k, v in load_file(ROOT / "priors" / "digits_prior.safetensors").items()}
    network = GrayAsColour(**GrayAsColour.config_from_state_dict(weights)).eval().requires_grad_(False)
    network.load_state_dict(weights)
    prior = in_image_units(lambda x, sigma: network(x, sigma.log() / 4))
    classifier = Classifier(*digits.split(False))
    pictures, classes = digits.split(True)
    pick = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))[: 50 if quick else 200]
    gray, classes = pictures[pick], classes[pick]
    clean = ((gray + 1) / 2).expand(-1, 3, -1, -1)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 16:] = 1
    measurement = Measurement.simulate(Inpainting(mask), clean, GaussianNoise(0.0), 0)
    steps = 30 if quick else 60
    filled = sample(prior, measurement, tuple(clean.shape), steps)
    free = Measurement.simulate(Identity(), clean, GaussianNoise(1e4), 0)
    drawn = sample(prior, free, tuple(clean.shape), steps, seed=1)

    def seen(x: Tensor) -> tuple[Tensor, Tensor]:
        return classifier(2 * x.mean(1, keepdim=True) - 1)

    def agreement(x: Tensor) -> float:
        return round((seen(x)[0] == classes).float().mean().item(), 3)

    sure = seen(clean)[1].quantile(0.1)
    clear = round((seen(drawn)[1] > sure).float().mean().item(), 3)
    masked = agreement(torch.where(mask > 0, 0.0, clean))
    rows = [
        {"task": "digits, true", "agreement": agreement(clean)},
        {"task": "digits, right half hidden", "agreement": masked},
        {"task": "digits, right half filled", "agreement": agreement(filled)},
        {"task": "digits, drawn: as clear as 90 % of the true ones", "share": clear},
    ]  # fmt: skip
    for row in rows:
        print(row, flush=True)
    return rows


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few pictures, a rough answer in a minute or two")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet: true, seen, baseline, ours twice, a sample")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = photographs(args.quick, args.sheet) + digit_rows(args.quick)
    print(json.dumps({"tasks": rows}))


if __name__ == "__main__":
    sys.exit(main())
