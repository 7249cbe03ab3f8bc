"""Train the embedded photo prior by denoising score matching.

    python priors/train.py --minutes 120 --threads 1 --out runs/photo [--resume] [--operator NAME [--noise SIGMA_Y]]

fetches the photographs (photo_data.py), trains, and every few minutes writes into --out the exact state of the run
(`checkpoint.pt`) and the averaged weights in half precision (`photo_prior.safetensors`). `--resume` goes on from the
checkpoint or, where there is none, from the averaged weights in --out, or from those that the pack ships.

The loss (Vincent 2011, https://doi.org/10.1162/NECO_a_00142; Karras et al. 2022, https://arxiv.org/abs/2206.00364):

    L = E_{x_0, sigma, z} lambda(sigma) || D(x_0 + sigma z; sigma) - x_0 ||^2,      z ~ N(0, I),

with x_0 in [-1, 1] and sigma in the same unit. Its minimiser is D = E[x_0 | x_0 + sigma z] for every sigma, and
(D(x; sigma) - x) / sigma^2 is the score of the noisy pictures. With D = c_skip x + c_out F and the weight
lambda = 1 / c_out^2, it is a plain regression of F on the target (x_0 - c_skip x) / c_out, whose variance is one.

With --operator the network is told a measurement (given.py) in further input channels and learns E[x_0 | x_t, y]. It
starts from the embedded prior, whose weights for the new channels are zero, and is exported as NAME.safetensors, a file
for *Load Supervised Prior*.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from tools.package import register

    register()
    __package__ = "posterior.priors"

from . import photo_data
from .given import OPERATORS, Telling, telling
from .muon import Muon
from .unet import SIGMA_DATA, PhotoUNet, beside, denoise, preconditioning

HERE = Path(__file__).parent
EXPORT = "photo_prior.safetensors"
HELD_OUT = HERE.parent / "photos"


class MixedPrecision:
    """Layers that convolve in bfloat16, but for those that see pixels: noise below 1% is lost in eight bits."""

    Linear = nn.Linear

    class Conv2d(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            if min(self.in_channels, self.out_channels) < 16:
                return super().forward(x.float())
            half = torch.bfloat16
            return self._conv_forward(x.to(half), self.weight.to(half), self.bias.to(half))


def dsm_loss(model: nn.Module, x0: Tensor, sigma: Tensor, z: Tensor, given: Tensor | None = None) -> Tensor:
    """The weighted loss, one number a picture (B,).

    With a measurement y of each picture as further input channels (`given`) this is conditional denoising score
    matching: the minimiser is E[x_0 | x_t, y] (Batzolis et al. 2021, https://arxiv.org/abs/2111.13606).
    """
    c_skip, c_out, c_in, c_noise = preconditioning(sigma)
    x = x0 + rearrange(sigma, "b -> b 1 1 1") * z
    return (model(beside(c_in * x, given), c_noise) - (x0 - c_skip * x) / c_out).square().mean(dim=(1, 2, 3))


def draw_sigma(n: int, generator: torch.Generator, centre: float = 0.35) -> Tensor:
    """Noise levels (n,): 85% log-normal around `centre` (e-fold 1), 15% log-uniform over .002 to 80."""
    log_normal = (math.log(centre) + torch.randn(n, generator=generator)).exp()
    low, high = math.log(0.002), math.log(80)
    log_uniform = (low + (high - low) * torch.rand(n, generator=generator)).exp()
    return torch.where(torch.rand(n, generator=generator) < 0.85, log_normal, log_uniform)


class Crops:
    """Random crops of random pictures; the chance of a picture grows with the square root of its area.

    A third of what photographs show is flat or out of focus: every denoiser is soon right there. Such crops, whose
    neighbouring rows differ by less than 3/255, are taken one time in four.
    """

    def __init__(self, pictures: list[np.ndarray], sizes: tuple[int, ...]) -> None:
        self.fitting = {s: [p for p in pictures if min(p.shape[:2]) >= s] for s in sizes}
        self.weights = {s: torch.tensor([p.size**0.5 for p in fitting]) for s, fitting in self.fitting.items()}

    def draw(self, n: int, size: int, generator: torch.Generator) -> Tensor:
        """(n, 3, size, size) in [-1, 1], half of them mirrored."""
        crops = []
        while len(crops) < n:
            picture = self.fitting[size][int(torch.multinomial(self.weights[size], 1, generator=generator))]
            u, v, mirror, chance = torch.rand(4, generator=generator).tolist()
            top, left = int(u * (picture.shape[0] - size + 1)), int(v * (picture.shape[1] - size + 1))
            crop = picture[top : top + size, left : left + size]
            if chance < 0.25 or np.abs(np.diff(crop.astype(np.int16), axis=0)).mean() >= 3:
                crops.append(crop[:, ::-1] if mirror < 0.5 else crop)
        return rearrange(torch.from_numpy(np.stack(crops)), "n h w c -> n c h w").float() / 127.5 - 1


def held_out_crops(size: int = 128) -> Tensor:
    """Two crops of each held-out photograph, (20, 3, size, size) in [-1, 1]."""
    from PIL import Image

    crops = []
    for path in sorted(HELD_OUT.glob("*.jpg")):
        picture = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
        top = (picture.shape[0] - size) // 2
        for third in (1, 2):
            left = (picture.shape[1] - size) * third // 3
            crops.append(picture[top : top + size, left : left + size])
    return rearrange(torch.stack(crops), "n h w c -> n c h w").float() / 127.5 - 1


@torch.no_grad()
def validate(model: nn.Module, x0: Tensor, told: Telling) -> dict[float, float]:
    """Mean PSNR (dB) of x0_hat by sigma ([-1, 1] unit), on the same noisy crops every time."""
    result = {}
    for sigma in (0.1, 0.2, 0.5):
        generator = torch.Generator().manual_seed(0)
        psnr = []
        for clean in x0.split(4):
            noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
            estimate = denoise(model, noisy, torch.full((len(clean),), sigma), told(clean, generator))
            psnr.append(10 * torch.log10(4 / (estimate.clamp(-1, 1) - clean).square().mean(dim=(1, 2, 3))))
        result[sigma] = torch.cat(psnr).mean().item()
    return result


class Trainer:
    """Muon for the convolutions, Adam for the rest, and the average of the weights with a power profile.

    The rate falls as 1 / sqrt(step). Neither it nor the average looks ahead to the end of the run, so a run can be
    stopped and continued at any time. The average (Karras et al. 2024, https://arxiv.org/abs/2312.02696, section 3.1)
    forgets at a rate (gamma + 1) / step: its width is a tenth of the run so far, however long that is.
    """

    gamma = 6.94

    def __init__(
        self, seed: int, lr: float, decay_after: int, warm_up: int = 100, network=PhotoUNet, centre: float = 0.35
    ) -> None:
        torch.manual_seed(seed)
        self.lr, self.decay_after, self.warm_up, self.centre = lr, decay_after, warm_up, centre
        self.model = network(operations=MixedPrecision).init_weights().to(memory_format=torch.channels_last)
        self.ema = network().requires_grad_(False)
        self.ema.load_state_dict(self.model.state_dict())
        named = dict(self.model.named_parameters())
        inner = [p for name, p in named.items() if p.ndim == 4 and name.split(".")[0] not in ("stem", "head")]
        outer = [p for p in named.values() if all(p is not q for q in inner)]
        self.optimizers = [Muon(inner, lr), torch.optim.Adam(outer, lr, betas=(0.9, 0.99), fused=True)]
        self.generator = torch.Generator().manual_seed(seed)
        self.step = self.first_step = self.images = 0
        self.minutes = 0.0

    def loss(self, x0: Tensor, given: Tensor | None = None) -> Tensor:
        """Of the pictures x0 (B, C, H, W) and, for a conditional network, what is given; one number a picture."""
        sigma, z = draw_sigma(len(x0), self.generator, self.centre), torch.randn(x0.shape, generator=self.generator)
        return dsm_loss(self.model, x0.contiguous(memory_format=torch.channels_last), sigma, z, given)

    def update(self, x: Tensor, *given: Tensor | None) -> float:
        """One step on a batch, as `loss` takes it, x first; returns the loss."""
        since_start = self.step - self.first_step
        rate = self.lr * min(1, (since_start + 1) / self.warm_up) / max(1, self.step / self.decay_after) ** 0.5
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = rate
        loss = self.loss(x, *given).mean()
        self.model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step, self.images = self.step + 1, self.images + len(x)
        forget = 1 - (1 - 1 / self.step) ** (self.gamma + 1)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), forget)
        return loss.item()

    def counters(self) -> dict[str, float]:
        return {"steps": self.step, "images_seen": self.images, "trained_minutes": round(self.minutes, 1)}

    def save(self, out: Path, export: str = EXPORT, **about: str | float) -> None:
        """Write the checkpoint and the export with what is said `about` it; each appears whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "first_step": self.first_step,
            **self.counters(),
        }
        torch.save(state, out / "checkpoint.partial")
        (out / "checkpoint.partial").replace(out / "checkpoint.pt")
        weights = {k: v.half().contiguous() for k, v in self.ema.state_dict().items()}
        metadata = {"sigma_data": SIGMA_DATA, **self.counters(), **about}
        save_file(weights, out / "export.partial", {k: str(v) for k, v in metadata.items()})
        (out / "export.partial").replace(out / export)

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Take the weights of a network; channels that this one is told beyond it count nothing yet."""
        stem = weights["stem.weight"]
        extra = self.model.stem.in_channels - stem.shape[1]
        weights = {key: value.float() for key, value in weights.items()}
        weights["stem.weight"] = F.pad(stem.float(), (0, 0, 0, 0, 0, extra))
        self.model.load_state_dict(weights)
        self.ema.load_state_dict(weights)

    def resume(self, out: Path, export: str = EXPORT) -> str:
        """Continue a run; returns the name of what it continues from."""
        checkpoint = out / "checkpoint.pt"
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.generator.set_state(state["generator"])
            self.first_step, source = state["first_step"], checkpoint
        else:
            source = next((p for p in (out / export, HERE / export) if p.exists()), None)
            if source is None:
                raise SystemExit(f"nothing to resume from in {out} or {HERE}")
            with safe_open(source, "pt") as f:
                state = f.metadata()
                self.start_from({k: f.get_tensor(k) for k in f.keys()})
            self.first_step = int(state["steps"])  # a new optimizer needs a new warm-up
            self.generator.manual_seed(self.first_step)
        self.step, self.images = int(state["steps"]), int(state["images_seen"])
        self.minutes = float(state["trained_minutes"])
        return str(source)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded photo prior.")
    parser.add_argument("--minutes", type=float, default=120, help="length of this run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--operator", choices=OPERATORS, help="train a supervised model for this operator")
    parser.add_argument("--noise", type=float, default=0.0, help="sigma_y of its measurements, unit of [0, 1]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--decay-after", type=int, default=3_000, help="steps before the rate begins to fall")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    name, export = args.operator, f"{args.operator}.safetensors" if args.operator else EXPORT
    about = {"operator": name, "noise": args.noise} if name else {}
    trainer = Trainer(args.seed, args.lr, args.decay_after, network=partial(PhotoUNet, given=3 if name else 0))
    told = telling(name, args.noise)

    if args.resume:
        print("resuming from", trainer.resume(args.out, export), trainer.counters(), flush=True)
    elif name:
        trainer.start_from(load_file(HERE / EXPORT))
    batches = ((16, 64), (16, 64), (4, 128))  # (crops, size) of successive steps: the same work, two fields of view
    crops = Crops(photo_data.load(), tuple({size for _, size in batches}))
    held_out = held_out_crops()

    end = trainer.minutes + args.minutes
    next_save, next_log = trainer.minutes + 3, trainer.minutes
    loss, clock = 1.0, time.monotonic()
    while True:
        n, size = batches[trainer.step % len(batches)]
        x0 = crops.draw(n, size, trainer.generator)
        loss += 0.01 * (trainer.update(x0, told(x0, trainer.generator)) - loss)
        now = time.monotonic()
        trainer.minutes += (now - clock) / 60
        clock = now
        if not loss < 2:
            raise SystemExit(f"the training diverged after {trainer.step} steps: resume with a smaller --lr")
        done = trainer.minutes >= end
        if done or trainer.minutes >= next_save:
            trainer.save(args.out, export, **about)
            next_save = trainer.minutes + 3
        if done or trainer.minutes >= next_log:
            psnr = validate(trainer.ema, held_out, told)
            scores = "  ".join(f"sigma {s}: {p:.2f} dB" for s, p in psnr.items())
            print(f"{trainer.minutes:7.1f} min  {trainer.step} steps  loss {loss:.4f}  {scores}", flush=True)
            next_log = trainer.minutes + 10
            clock = time.monotonic()  # validation is not training
        if done:
            return


if __name__ == "__main__":
    main()
