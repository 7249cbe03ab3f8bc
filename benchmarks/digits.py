"""How good the embedded digits prior is: halves filled in, and digits enlarged, read by a classifier.

    python3 dev.py bench digits [--quick] [--few]

200 held-out digits; the classifier knows nothing of our priors. Pi-GDM was chosen for them over DiffPIR and MMPS on 100
held-out digits that are among these, so its figures flatter us a little.

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ..guidance.base import Guidance
from ..guidance.pigdm import PiGDM
from ..measurement.measurement import Measurement
from ..measurement.noise import GaussianNoise
from ..measurement.smooth import smooth_inverse
from ..operators.downscale import downscale
from ..operators.inpainting import Inpainting
from ..priors import digits
from ..priors.given import laid_out
from ..priors.gray import GrayAsColour, Told
from ..samplers.daps import DAPS
from ..samplers.mcgdiff import MCGDiff
from ..samplers.split_gibbs import SplitGibbs
from ..samplers.tds import TDS
from .classifier import Classifier
from .digits_few import drawn_rows, few_rows
from .prior import ROOT, in_image_units, level, psnr, sample

#: sampler, guidance, model calls for a picture and a step
SAMPLERS = {
    "DAPS": (DAPS(2), Guidance, 2), "PnP-DM": (SplitGibbs(4, 0), Guidance, 4),
    "TDS, Pi-GDM": (TDS(8, batch=100), PiGDM, 8), "MCGDiff": (MCGDiff(16, batch=100), Guidance, 16),
}  # fmt: skip


def digits_network(file: str) -> GrayAsColour:
    weights = {f"gray.{key}": value.float() for key, value in load_file(ROOT / "priors" / file).items()}
    network = GrayAsColour(**GrayAsColour.config_from_state_dict(weights)).eval().requires_grad_(False)
    network.load_state_dict(weights)
    return network


def digit_rows(quick: bool, few: bool) -> list[dict[str, Any]]:
    """few: only what `digits_few` measures."""
    network = digits_network("digits_prior.safetensors")
    prior = in_image_units(lambda x, sigma: network(x, sigma.log() / 4))
    classifier = Classifier(*digits.split(False))
    pictures, classes = digits.split(True)
    pick = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))[: 50 if quick else 200]
    classes, clean = classes[pick], ((pictures[pick] + 1) / 2).expand(-1, 3, -1, -1)
    shape, steps, draws, many = tuple(clean.shape), 30 if quick else 40, 2 if quick else 4, 8 if quick else 16

    def seen(x: Tensor) -> tuple[Tensor, Tensor]:
        return classifier(2 * x.mean(1, keepdim=True) - 1)

    def agreement(x: Tensor) -> float:
        return round((seen(x)[0] == classes).float().mean().item(), 3)

    def calibration(drawn: list[Tensor], truth: Tensor, mask: Tensor) -> dict[str, float]:
        """Whether the samples are as uncertain as they should be: how large a share of them is of the commonest class
        (confidence) and how often that class is right; how often the true amount of ink in the hole ranks neither
        among their two lowest nor among their two highest, and how often it would if it were one of them."""
        votes = F.one_hot(torch.stack([seen(x)[0] for x in drawn]), 10).sum(0)
        ink = torch.stack([(x * mask).sum((1, 2, 3)) for x in drawn])
        rank = (ink < (truth * mask).sum((1, 2, 3))).sum(0)
        values = {
            "confidence": votes.amax(1) / len(drawn), "agreement": votes.argmax(1) == classes,
            "coverage": (rank >= 2) & (rank <= len(drawn) - 2),
            "coverage_if_exact": torch.tensor((len(drawn) - 3) / (len(drawn) + 1)),
        }  # fmt: skip
        return {key: round(value.float().mean().item(), 3) for key, value in values.items()}

    rows = [{"task": "digits, true", "agreement": agreement(clean)}]
    for half, (top, left) in {"right half": (0, 16), "lower half": (16, 0)}.items():
        mask = torch.zeros(1, 1, 32, 32)
        mask[..., top:, left:] = 1
        measurement = Measurement.simulate(Inpainting(mask), clean, GaussianNoise(0.01), 0)
        if few:
            rows += few_rows(prior, measurement, half, agreement)
            continue
        hidden = torch.where(mask > 0, 0.0, clean)
        drawn = [sample(prior, PiGDM(measurement), shape, steps, seed) for seed in range(many)]
        rows.append({
            "task": f"digits, {half} filled", "estimate": f"one sample (Pi-GDM), {steps} calls",
            "agreement": agreement(drawn[0]), "agreement_hidden": agreement(hidden),
        })  # fmt: skip
        for name, (sampler, block, calls) in SAMPLERS.items():
            x, calls = sample(prior, block(measurement), shape, steps, sampler=sampler), calls * steps
            rows.append({
                "task": f"digits, {half} filled", "estimate": f"one sample ({name}), {calls} calls",
                "agreement": agreement(x),
            })  # fmt: skip
        rows.append({"task": f"digits, {half} filled, {many} samples", **calibration(drawn, clean, mask)})

    def clear(x: Tensor) -> float:
        return round((seen(x)[1] > seen(clean)[1].quantile(0.1)).float().mean().item(), 3)

    if few:
        return rows + drawn_rows(shape, clear)
    share = clear(sample(prior, None, shape, steps, seed=1))
    rows.append({"task": "digits, drawn: as clear as 90 % of the true ones", "share": share})

    measurement = Measurement.simulate(downscale(4, "box"), clean, GaussianNoise(digits.ENLARGER_NOISE), 0)
    told = Told(digits_network("digits_x4.safetensors"), laid_out(measurement.operator, measurement.y))
    supervised = in_image_units(lambda x, sigma: told(x, sigma.log() / 4))
    guided = [sample(prior, PiGDM(measurement), shape, steps, seed) for seed in range(draws)]
    answers = {
        "supervised, mean, 1 call": supervised(torch.zeros_like(clean) + 0.5, level(80.0)),
        f"guided (Pi-GDM), mean of {draws} samples": sum(guided) / draws,
        f"supervised, one sample, {steps} calls": sample(supervised, None, shape, steps),
        f"guided (Pi-GDM), one sample, {steps} calls": guided[0],
        "thin plate": smooth_inverse(measurement.operator, measurement.y),
    }
    for name, x in answers.items():
        rows.append({
            "task": "digits, x4, noise 0.1", "estimate": name, "psnr": round(psnr(x, clean), 2),
            "agreement": agreement(x), "fit": round(measurement.fit(x).mean().item(), 3),
        })  # fmt: skip
    for row in rows:
        print(row, flush=True)
    return rows


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="50 digits, a rough answer in a minute or two")
    parser.add_argument("--few", action="store_true", help="flow methods and few steps instead: see digits_few.py")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps({"tasks": digit_rows(args.quick, args.few)}))


if __name__ == "__main__":
    main()
