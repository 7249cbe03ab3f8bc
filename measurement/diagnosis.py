"""What happened to a picture, all of it, from the picture alone; and the operator that says so.

One damage hides another, so that each is looked for where the others leave it visible, in this order:

    enlargement   the range of each filter; then all else is read off the small picture
    lost pixels   what lies beyond the histogram of a faded photo, then (the fading undone) scratches and dust
    JPEG          combs in the coefficients
    noise         where nothing is lost, by what tells it from texture; before a JPEG, by what was not rounded away;
                  blotches, unless there is a blur
    blur          of the picture whose lost pixels were filled smoothly; not of an enlargement, which blurs on its own,
                  nor of what faded before a JPEG

and the operator is what happened, the first thing inmost:

    y = JPEG(mask(gain blur(reduce(x)) + offset + noise))

Noise that can still be seen after JPEG is louder than what JPEG has rounded, and more is won without the JPEG: of six
training photographs, noise 0.05, quality 75, by 0.3 to 3.2 dB, quality 90 by 0.5 to 4.4.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from ..algebra.checkpoint import checkpoint
from ..operators.base import Operator
from ..operators.compose import compose
from ..operators.downscale import downscale
from ..operators.identity import Identity
from ..operators.inpainting import Inpainting, dilated
from ..operators.pointwise import Saturation
from .blur_estimate import BlurEstimate, estimate_blur, log_likelihood
from .fading import Fading, fading
from .jpeg_noise import noise_before
from .jpeg_tables import Compression, compression
from .kernel_estimate import DOUBT, Shake, estimate_kernel
from .noise_spectrum import noise_spectrum
from .plain_noise import is_grey, white_level
from .scratches import DAMAGED, damage_marks
from .smooth import harmonic
from .true_size import TrueSize, true_size

#: what can be looked for, in the words of a report
KINDS = ("JPEG", "noise", "scratches", "blur", "fading", "small size", "enlargement")
#: pixels; a picture whose shorter side is less is small, and how much larger it should be
SMALL, ENLARGED = 96, 4
#: pixels; nothing else can be read off a picture whose shorter side is less
READABLE = 64
#: pixels by which holes of a faded picture are marked wider than they were found: soft edges, which marks have already
RIM = 1
#: confidence above which a blur is one: to divide by a blur that is not there does more harm than to leave one that is,
#: and filled pixels look smooth (a faded, torn photo: 12.6 dB with a blur of confidence 0.6, 14.4 without)
LIKELY = 0.75
#: probability of no blur above which a camera did not shake either; how wide a path is looked for at most, in the
#: middle of the picture, and how large that is at least and at most, pixels; by how many nats the path must explain it
#: better than a blur of a kind, or none. 22 of 24 training photographs blurred by paths of 7 to 27 pixels (192 and 256
#: pixels) are above it (11 of which passed for straight movements), none of 19 blurred otherwise (by 4 at most), none
#: of 65 that were not blurred, and none of 32 that were scratched, torn and faded, or had blotches
SHARP, PATH, MIDDLE, SHOOK = 0.97, 31, (128, 256), 130.0
#: nats of lines in the picture (`BlurEstimate.lines`) from which a path is looked for all the same: of 16 other
#: training photographs blurred by paths two have 21 and 43, and a probability of 0.99; 22 of 121 sharp ones have more
LINES = 10.0
#: nats from which a picture was enlarged; of some 150 training photographs, clean, noisy, blurred, faded and in JPEG,
#: none that was not had more than 1.03, and of twelve enlarged twice none less than 2.6 (1.2 to 2.1 by 1.7 and faded)
ENLARGED_FOR_SURE = 1.5
#: a share of lost pixels below which they are taken for the picture's own
STRAY = 2e-4
#: and above which, with the pixels beside them, they are too: a drawing's lines, a page of print
OWN = 0.4


@dataclass(frozen=True)
class Diagnosis:
    """What was found; None, 0 or an empty mask where there was nothing.

    Args:
        size: (H, W) of the picture.
        looked: what was looked for, of `KINDS`.
        jpeg: how it was compressed.
        noise: sigma of its noise, image units.
        blotch: size of the noise's blotches, pixels; 0 for even grain.
        lost: `1 1 H W`, 1 where pixels are lost.
        blur: of a kind, or the path of a camera that shook.
        fading: its levels.
        small: how much larger it should be.
        grey: whether it has no colours.
        enlarged: how it was made larger.
    """

    size: tuple[int, int]
    looked: tuple[str, ...]
    jpeg: Compression | None
    noise: float
    blotch: float
    lost: Tensor
    blur: BlurEstimate | Shake | None
    fading: Fading | None
    small: int | None
    grey: bool
    enlarged: TrueSize | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """What was found, of `KINDS`."""
        found = (self.jpeg, self.noise, self.lost.any(), self.blur, self.fading, self.small, self.enlarged)
        return tuple(kind for kind, present in zip(KINDS, found, strict=True) if present)

    @property
    def undone(self) -> bool:
        """Whether all else is of the small picture that was enlarged."""
        return self.enlarged is not None and self.lost.shape[-2:] == self.enlarged.size

    @property
    def mask(self) -> Tensor:
        """What is lost, in the size of the picture, `1 1 H W`."""
        return F.interpolate(self.lost, self.size) if self.undone else self.lost

    @property
    def sigma(self) -> float:
        """The noise, and what is not quite right of a path that was found, image units."""
        return math.hypot(self.noise, DOUBT) if isinstance(self.blur, Shake) else self.noise

    def operator(self) -> Operator:
        """What happened, for a picture of this size."""
        chain: list[Operator] = [downscale(self.small)] if self.small else []
        if self.undone:
            chain.append(self.enlarged.operator)
        if self.blur:
            chain.append(self.blur.operator)
        jpeg = None if self.noise else self.jpeg
        if self.fading and jpeg:  # JPEG rounds the faded picture as it is, with its offset
            chain.append(Saturation(self.fading.gain, self.fading.offset / (1 - self.fading.gain)))
        elif self.fading:
            chain.append(self.fading.operator())
        if self.lost.any():
            chain.append(Inpainting(self.lost))
        if jpeg:
            chain.append(jpeg.operator())
        return reduce(lambda inner, outer: compose(outer, inner), chain) if chain else Identity()

    def words(self) -> str:
        size = f"{self.size[1]} x {self.size[0]} pixels"
        said = {
            "enlargement": lambda: str(self.enlarged) + ("" if self.undone else ", which is only said"),
            "small size": lambda: f"small ({size}), to be solved {self.small} times as large",
            "fading": lambda: self.fading.words(),
            "blur": lambda: str(self.blur),
            "scratches": lambda: f"{100 * self.lost.mean().item():.2g} % lost (scratches, dust, tears)",
            "noise": lambda: f"noise {self.noise:.3f}" + (" with blotches" if self.blotch else ""),
            "JPEG": lambda: self.jpeg.words() + (", which the noise outweighs" if self.noise else ""),
        }
        present = [said[kind]() for kind in reversed(KINDS) if kind in self.kinds]
        hidden = ("blur",) if self.jpeg and self.fading else ()
        absent = [kind for kind in self.looked if kind not in (*self.kinds, *hidden)]
        nothing = f"no {', '.join(absent[:-1])}{' or ' if absent[1:] else ''}{absent[-1]}" if absent else ""
        grey = "a grey picture" if self.grey else ""
        return "; ".join(filter(None, [*(present or ["undamaged"]), grey, nothing])) + "."


def diagnose(
    image: Tensor, look: Collection[str] = KINDS, sensitivity: float = 0.5, painted: Tensor | None = None
) -> Diagnosis:
    """What happened to a picture.

    Args:
        image: `1 3 H W` in [0, 1], as it was recorded: cut perhaps, not resized.
        look: what to look for, of `KINDS`.
        sensitivity: of `damage_marks`.
        painted: `1 1 H W`, 1 where pixels are known to be lost.
    """
    size = tuple(image.shape[-2:])
    readable = min(size) >= READABLE
    enlarged = true_size(image) if "enlargement" in look and readable else None
    enlarged = enlarged if enlarged and enlarged.evidence > ENLARGED_FOR_SURE else None
    checkpoint()
    jpeg = compression(image) if "JPEG" in look and readable else None
    checkpoint()
    if enlarged and jpeg is None and painted is None:
        # what an almost right filter leaves of the spectrum looks like a blur
        found = diagnose(enlarged.small(image), set(look) - {"enlargement", "small size", "blur"}, sensitivity)
        return replace(found, size=size, enlarged=enlarged)
    looked = tuple(kind for kind in KINDS if kind in look and (readable or kind == "small size"))
    faded, lost = fading(image) if "fading" in looked else (None, torch.zeros_like(image[:, :1]))
    checkpoint()
    marks = torch.zeros_like(lost)
    if "scratches" in looked:
        clear = image if faded is None else ((image - faded.offset) / faded.gain).clamp(0, 1)
        thin, evidence = damage_marks(clear, sensitivity)
        marks = thin if evidence > DAMAGED else marks
    found, holes = torch.maximum(lost, marks), lost * (1 - dilated(marks, RIM))
    lost = torch.maximum(found, dilated(holes, RIM))
    if found.mean() <= STRAY or dilated(found, RIM).mean() >= OWN:
        lost = torch.zeros_like(lost)
    lost = lost if painted is None else torch.maximum(lost, painted)
    noise, blotch, blur = 0.0, 0.0, None
    checkpoint()
    filled = harmonic(image, lost == 0) if lost.any() else image
    if "noise" in looked:
        noise = white_level(image, lost) if jpeg is None else noise_before(image, jpeg)
    if "blur" in looked and not (jpeg and faded):
        blur = _blur(filled, [jpeg] if "JPEG" in looked else None)
    if "noise" in looked and jpeg is None and blur is None:
        spectrum = noise_spectrum(filled)
        if spectrum.coloured:
            noise, blotch = spectrum.total, spectrum.length.median().item()
    small = ENLARGED if "small size" in looked and min(size) < SMALL else None
    return Diagnosis(size, looked, jpeg, noise, blotch, lost, blur, faded, small, is_grey(image), enlarged)


def _blur(picture: Tensor, jpegs: list[Compression | None] | None) -> BlurEstimate | Shake | None:
    """What blurred a picture, if something did for certain; a path is not looked for behind a JPEG."""
    seen, (least, most) = estimate_blur(picture, jpegs), MIDDLE
    shaken = seen.probabilities["none"] < SHARP or seen.lines > LINES
    if shaken and not any(jpegs or ()) and min(picture.shape[-2:]) >= least:
        top, left = (max(0, side - most) // 2 for side in picture.shape[-2:])
        middle = picture[..., top : top + most, left : left + most]
        shake = estimate_kernel(middle, PATH)
        kind = log_likelihood(middle, seen.operator) - log_likelihood(middle, Identity()) if seen.operator else 0.0
        if shake.nats > max(kind, seen.lines) + SHOOK:
            return shake
    return seen if seen.operator is not None and seen.confidence > LIKELY else None
