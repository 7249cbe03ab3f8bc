"""A wrong guess does no harm: Solve Inverse Problem, its defaults, told something else than what was done.

    python3 dev.py bench wrong_guess [--quick] [--size N] [--steps N]

Held-out photographs in 8 bits. Told: a radius 50 % too large or too small, sigma_y three times too small or too large,
a JPEG quality 15 off, an angle 15 degrees off. For each guess the PSNR over that of the damaged picture, least and
mean, the mean over that of the run that was told right, and the share of reports that say what was wrong. Target: never
more than 0.5 dB below the damaged picture. Thresholds (`measurement.as_seen`) were chosen on training photographs.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..measurement.measurement import Measurement
from ..measurement.noise import GaussianNoise
from ..photos import PHOTOS, load_photo
from ..tests.inside_host import Host
from ..tools import environment


@dataclass(frozen=True)
class Guess:
    """A node and its inputs, as it was and as it is told; so with sigma_y, image units."""

    name: str
    node: str
    true: dict[str, Any]
    told: dict[str, Any]
    sigma: float = 0.01
    said: float = 0.01


DISK, MOTION, HALF = {"radius": 3.0}, {"length": 11.0, "angle": 20.0}, {"quality": 50}
GUESSES = [
    Guess("disk 3", "PosteriorDefocus", DISK, DISK),
    Guess("disk 3, told 4.5", "PosteriorDefocus", DISK, {"radius": 4.5}),
    Guess("disk 3, told 1.5", "PosteriorDefocus", DISK, {"radius": 1.5}),
    Guess("disk 3, sigma_y / 3", "PosteriorDefocus", DISK, DISK, 0.01, 0.01 / 3),
    Guess("disk 3, sigma_y x 3", "PosteriorDefocus", DISK, DISK, 0.01, 0.03),
    Guess("motion 11", "PosteriorMotionBlur", MOTION, MOTION),
    Guess("motion 11, 15 degrees off", "PosteriorMotionBlur", MOTION, {"length": 11.0, "angle": 35.0}),
    Guess("JPEG 50", "PosteriorJPEG", HALF, HALF, 0.0, 0.0),
    Guess("JPEG 50, told 65", "PosteriorJPEG", HALF, {"quality": 65}, 0.0, 0.0),
    Guess("JPEG 50, told 35", "PosteriorJPEG", HALF, {"quality": 35}, 0.0, 0.0),
    Guess("noise 0.02", "PosteriorIdentity", {}, {}, 0.02, 0.02),
    Guess("noise 0.02, sigma_y / 3", "PosteriorIdentity", {}, {}, 0.02, 0.02 / 3),
    Guess("noise 0.02, sigma_y x 3", "PosteriorIdentity", {}, {}, 0.02, 0.06),
]


def decibels(x: Tensor, clean: Tensor) -> float:
    return -10 * math.log10((x.clamp(0, 1) - clean).square().mean().item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three photographs")
    parser.add_argument("--size", type=int, default=256, help="side of the photos, pixels")
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    host = Host(environment.get(os.environ.get("COMFYUI_PATH")))
    model, names, rows = host.call("PosteriorPhotoPrior"), PHOTOS[:3] if options.quick else PHOTOS, []
    right: list[float] = []
    for guess in GUESSES:
        gains, said = [], 0
        for seed, name in enumerate(names):
            clean = load_photo(name, options.size)
            operator = host.call(guess.node, **guess.true)
            noise = GaussianNoise(guess.sigma)
            y = Measurement.simulate(operator, clean.movedim(-1, 1), noise, seed).y.movedim(1, -1)
            image = (y.clamp(0, 1) * 255).round() / 255
            told = host.call(guess.node, **guess.told)
            measurement = host.call("PosteriorObserve", image=image, operator=told, sigma_y=guess.said)
            answer, _, _, report = host.call(
                "PosteriorSolve", model=model, measurement=measurement, steps=options.steps
            )
            gains.append(decibels(answer, clean) - decibels(image, clean))
            said += "as the photo shows" in report
        if guess.true == guess.told and guess.sigma == guess.said:
            right = gains
        short = sum(a - b for a, b in zip(gains, right, strict=True)) / len(gains)
        mean, share = sum(gains) / len(gains), said / len(gains)
        rows.append({"guess": guess.name, "least": min(gains), "mean": mean, "over right": short, "said": share})
        numbers = f"least {min(gains):+6.2f} dB, mean {mean:+6.2f}, over right {short:+6.2f}, said {share:.0%}"
        print(f"{guess.name:28} {numbers}", flush=True)
    print(json.dumps({"size": options.size, "steps": options.steps, "rows": rows}))


if __name__ == "__main__":
    main()
