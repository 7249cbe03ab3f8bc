"""What *Diagnose Picture* finds, and what *Solve Inverse Problem* makes of it with no number typed.

    python dev.py bench diagnose [--quick] [--part PART]

Ten held-out photos; settings were chosen on training photographs.

    told        192 pixels (256 where they are reduced to 64): the kinds that are named are those that are there, no
                more and no less
    clean       192 pixels: what Solve makes of a photo in which nothing was found, PSNR to the photo
    damaged     the examples of *Damaged Old Photo*
    faded       192 pixels, grey, y = 0.35 + 0.4 x, noise 0.02, dust, a hole of 40 x 64 pixels: PSNR of the whole by
                ours (Diagnose, Observe, Solve in 12 steps), and of biharmonic filling (scikit-image) of the true mask,
                with levels by hand: the true ones, or black and white at the half percent ends

Prints each target and what was reached; JSON last.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from ..measurement.diagnosis import KINDS, diagnose
from ..operators import kernels
from ..operators.convolution import convolution
from ..operators.downscale import downscale
from ..photos import PHOTOS, load_damage
from ..photos.damaged import load_damaged
from ..tests.inside_host import Host
from ..tools import environment
from .blind import dust, photo, psnr, run_parts, saved

#: of *Damaged Old Photo*
TRUTH = {
    "scratches and lettering": {"scratches"}, "out of focus": {"blur", "noise"}, "camera moved": {"blur", "noise"},
    "grain": {"noise"}, "JPEG blocks (quality 15)": {"JPEG"}, "too small (a quarter)": {"small size"},
    "blotches": {"noise"}, "faded, torn and dusty, black and white": {"fading", "scratches", "noise"},
    "camera shook": {"blur", "noise"},
}  # fmt: skip


def bytes_of(x: Tensor) -> Tensor:
    return (255 * x.clamp(0, 1)).round() / 255


def noisy(x: Tensor, sigma: float, seed: int) -> Tensor:
    return bytes_of(x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)))


def scratched(x: Tensor) -> Tensor:
    return torch.where(load_damage("scratches", x.shape[-1])[None] > 0, 0.97, x)


def blurred_jpeg(x: Tensor, turn: int) -> Tensor:
    """A Gaussian of 2 pixels, a disk of 3, a movement of 11, as JPEG; every kind with every quality."""
    kernel = (kernels.gaussian(2.0), kernels.disk(3.0), kernels.motion(11.0, 37.0 * turn % 180))[turn % 3]
    return saved(convolution(kernel).forward(x), (90, 75, 50)[turn // 3 % 3], "4:2:0")


def enlarged(x: Tensor) -> Tensor:
    """Reduced by a half and enlarged again, by Pillow's bicubic filter, `1 3 H W`, H and W even."""
    picture, side = Image.fromarray((255 * x[0].movedim(0, -1)).round().byte().numpy()), x.shape[-1]
    small = picture.resize((side // 2, side // 2), Image.Resampling.BICUBIC)
    large = np.array(small.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    return torch.from_numpy(large).movedim(-1, 0)[None]


CASES: dict[str, tuple[set[str], Callable[[Tensor, int], Tensor]]] = {
    "undamaged": (set(), lambda x, turn: x),
    "blur + noise": (
        {"blur", "noise"}, lambda x, turn: noisy(convolution(kernels.gaussian(2.0)).forward(x), 0.01, turn),
    ),
    "noise + JPEG": ({"noise", "JPEG"}, lambda x, turn: saved(noisy(x, 0.05, turn), 80, "4:2:0")),
    "JPEG, qualities 30 to 90": ({"JPEG"}, lambda x, turn: saved(x, 30 + 15 * (turn % 5), "4:2:0")),
    "blur + JPEG, qualities 90, 75, 50": ({"blur", "JPEG"}, lambda x, turn: blurred_jpeg(x, turn)),
    "small + JPEG": (
        {"small size", "JPEG"}, lambda x, turn: saved(bytes_of(downscale(4).forward(x)), 30, "4:2:0"),
    ),
    "enlarged": ({"enlargement"}, lambda x, turn: enlarged(x)),
    "scratches + fading": ({"scratches", "fading"}, lambda x, turn: bytes_of(scratched(0.35 + 0.4 * x))),
}  # fmt: skip


def told(quick: bool) -> dict[str, float]:
    results = {}
    for case, (truth, damage) in CASES.items():
        right = 0
        for turn, name in enumerate(PHOTOS[:3] if quick else PHOTOS):
            found = diagnose(damage(photo(name, 256 if "small size" in truth else 192), turn))
            right += set(found.kinds) == truth
            if set(found.kinds) != truth:
                print(f"{case}, {name}: {found.words()}", flush=True)
        print(f"{case}: {right}", flush=True)
        results[f"{case}: named rightly ({10 if not truth else 8})"] = right
    return results


def damaged(quick: bool) -> dict[str, float]:
    results = {}
    for name, truth in TRUTH.items():
        found = diagnose(load_damaged(name)[0].movedim(-1, 1))
        print(f"{name}: {found.words()}", flush=True)
        results[f"{name} (1)"] = float(set(found.kinds) == truth)
    return results


class Repair:
    """Diagnose, Observe, Solve, as the graph has it."""

    def __init__(self) -> None:
        self.host = Host(environment.get(None))
        self.model = self.host.call("PosteriorPhotoPrior")

    def __call__(self, y: Tensor, steps: int) -> Tensor:
        image, switches = y.movedim(1, -1), {kind.lower().replace(" ", "_"): True for kind in KINDS}
        operator, sigma_y, _, _, blotch = self.host.call("PosteriorDiagnose", image=image, **switches)
        seen = self.host.call("PosteriorObserve", image=image, operator=operator, sigma_y=sigma_y, blotch=blotch)
        return self.host.call("PosteriorSolve", model=self.model, measurement=seen, steps=steps)[0].movedim(-1, 1)


def clean(quick: bool) -> dict[str, float]:
    repair, worst = Repair(), 100.0
    for name in PHOTOS[:3] if quick else PHOTOS:
        if not diagnose(photo(name, 192)).kinds:
            worst = min(worst, psnr(repair(photo(name, 192), 4), photo(name, 192)))
    return {"undamaged: least PSNR after Solve (45; 100 is equal)": worst}


def torn(clean: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """A faded print, and what of it is lost."""
    grain = 0.02 * torch.randn(clean[:, :1].shape, generator=torch.Generator().manual_seed(seed))
    lost, value = dust(clean.shape[-1], seed)
    y = torch.where(lost > 0, value, 0.35 + 0.4 * clean + grain)
    lost[..., :64, 40:80], y[..., :64, 40:80] = 1, 1
    return bytes_of(y), lost


def faded(quick: bool) -> dict[str, float]:
    repair, results = Repair(), []
    for turn, name in enumerate(PHOTOS[:3] if quick else PHOTOS):
        truth = photo(name, 192).mean(1, keepdim=True)
        y, lost = torn(truth.expand(-1, 3, -1, -1), turn)
        filled = inpaint_biharmonic(y[0, 0].double().numpy(), lost[0, 0].numpy() > 0)
        low, high = np.quantile(filled, [0.005, 0.995])
        by_hand, by_ends = ((torch.from_numpy(filled) - b) / a for a, b in ((0.4, 0.35), (high - low, low)))
        ours = repair(y, 12)
        colour = (ours.amax(1) - ours.amin(1)).max().item()
        results.append([*(psnr(x, truth) for x in (ours, by_hand, by_ends)), colour])
        print(f"{name:12}" + " ".join(f"{value:6.2f}" for value in results[-1]), flush=True)
    ours, by_hand, by_ends, colour = np.array(results).T
    return {
        "faded: ours": ours.mean(), "faded: biharmonic, true levels": by_hand.mean(),
        "faded: biharmonic, half percent ends": by_ends.mean(),
        "faded: above true levels, of 10": float((ours > by_hand).sum()),
        "faded: above half percent ends, of 10": float((ours > by_ends).sum()),
        "faded: largest difference of colours": colour.max(),
    }  # fmt: skip


PARTS: dict[str, Callable[[bool], dict[str, float]]] = {
    "damaged": damaged, "told": told, "clean": clean, "faded": faded,
}  # fmt: skip


def main() -> None:
    run_parts(PARTS, __doc__, "three photos")


if __name__ == "__main__":
    main()
