"""Handwritten digits as a flow model, and as one of few steps.

    python priors/flow_digits.py --minutes 3 --out runs/flow [--distil] [--resume]

goes on from the digits prior (digits.py: the same digits, the same kept aside) by flow matching (flow.py), and writes
the exact state of the run (`checkpoint.pt`) and the averaged weights (`digits_flow.safetensors`) into --out.

With --distil it learns where the ODE ends: `digits_few.safetensors`. Its teacher, the digits prior as a flow, walks
from noise to a digit in 16 steps, at times of which each walk has its own, and every state that it passes is a lesson
(x_t, x_end) of a consistency function (Song et al. 2023, https://arxiv.org/abs/2303.01469), with no bootstrap:

    L = E norm(v(x_t, t) - (x_t - x_end) / t)^2

Its x0_hat is then a digit instead of a mean of digits, so that a few steps with fresh noise between them will do.
The file in the pack took one minute (336 steps: the loss on walks of its own fell from 0.062 to 0.017).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from tools.package import register

    register()
    __package__ = "posterior.priors"

from .digits import ARCHITECTURE, CENTRE, EXPORT, split
from .flow import flow_loss, trajectory, velocity, wide
from .train import MixedPrecision, Trainer
from .unet import PhotoUNet, denoise

HERE = Path(__file__).parent
FLOW, FEW = "digits_flow.safetensors", "digits_few.safetensors"
#: pictures in a lesson, steps of a walk
BATCH, STEPS = 64, 16


class FlowTrainer(Trainer):
    """A trainer on lessons (x_t, t, v)."""

    def loss(self, x: Tensor, t: Tensor, target: Tensor) -> Tensor:
        return flow_loss(self.model, x.contiguous(memory_format=torch.channels_last), t, target)


def pairs(pictures: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Lessons of flow matching. 85 % of the times are logit-normal about the digits' noise levels, the rest even."""
    while True:
        x0 = pictures[torch.randint(len(pictures), (BATCH,), generator=generator)]
        z = torch.randn(x0.shape, generator=generator)
        normal = (math.log(CENTRE) + torch.randn(BATCH, generator=generator)).sigmoid()
        even, chance = torch.rand(2, BATCH, generator=generator)
        t = torch.where(chance < 0.85, normal, 1 - even)
        yield (1 - wide(t)) * x0 + wide(t) * z, t, z - x0


def walks(teacher: nn.Module, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Lessons of the teacher's walks, those of a batch of them mixed with each other."""
    while True:
        z = torch.randn(BATCH, 1, 32, 32, generator=generator)
        inner = 1 - (torch.arange(STEPS - 1)[:, None] + torch.rand(BATCH, generator=generator)) / (STEPS - 1)
        times = torch.cat([torch.ones(1, BATCH), inner, torch.zeros(1, BATCH)])
        with torch.no_grad():
            states, end = trajectory(partial(velocity, partial(denoise, teacher)), z, times)
        x, t, ends = states.flatten(0, 1), times[:-1].flatten(), end.repeat(STEPS, 1, 1, 1)
        order = torch.randperm(len(x), generator=generator)
        order = order[t[order] > 0.01]
        for chosen in order.split(BATCH):
            yield x[chosen], t[chosen], (x[chosen] - ends[chosen]) / wide(t[chosen])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the digits flow.")
    parser.add_argument("--minutes", type=float, default=3, help="length of this run, processor time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--distil", action="store_true", help="train the few-step model")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    export, network = FEW if args.distil else FLOW, partial(PhotoUNet, **ARCHITECTURE)
    trainer = FlowTrainer(0, 1e-3, 1_000, network=network)
    weights = load_file(HERE / EXPORT)
    trainer.start_from(weights)
    if args.distil:
        teacher = network(operations=MixedPrecision).requires_grad_(False).to(memory_format=torch.channels_last)
        teacher.load_state_dict({key: value.float() for key, value in weights.items()})
        lessons, examined = (walks(teacher, g) for g in (trainer.generator, torch.Generator().manual_seed(1)))
    else:
        lessons, examined = pairs(split(False)[0], trainer.generator), pairs(split(True)[0], torch.Generator())
    if args.resume:
        print("resuming from", trainer.resume(args.out, export), flush=True)
    exam = [next(examined) for _ in range(STEPS)]
    end, shown = trainer.minutes + args.minutes, trainer.minutes
    clock = time.process_time()
    while trainer.minutes < end:
        trainer.update(*next(lessons))
        now = time.process_time()
        trainer.minutes += (now - clock) / 60
        clock = now
        if trainer.minutes >= min(shown + 0.5, end) or trainer.step == 1:
            shown = trainer.minutes
            trainer.save(args.out, export)
            with torch.no_grad():
                error = torch.cat([flow_loss(trainer.ema, *lesson) for lesson in exam]).mean()
            print(f"{shown:6.2f} min  {trainer.step} steps  held-out loss {error:.4f}", flush=True)
            clock = time.process_time()


if __name__ == "__main__":
    main()
