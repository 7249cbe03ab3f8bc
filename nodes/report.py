"""What nodes say about a result: the number, what it means, what is expected, and what to change if it is off."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..measurement.measurement import Measurement
from ..measurement.noise import ROUNDING, GaussianNoise

#: residual RMS / sigma_y to expect. Exact samples have 1 (y and a sample are exchangeable with y and the truth); whatever
#: averages over samples keeps nothing of the noise that it could tell from the picture, so it lies below, the further the
#: finer the noise is beside the picture's own detail
EXPECTED = {"sample": (0.8, 1.2), "restoration": (0.3, 1.2), "mean": (0.3, 1.2), "picture": (0.3, 1.2)}
#: residual RMS up to which damage that is not linear (JPEG, fewer colours) is met: it rounds by itself, more than 8 bits do
OWN_ROUNDING = 0.01
#: where an answer was asked to be grey
GREYED = "what was seen has colours, which are left out as asked."
#: a larger share than this that is lost under a mask looks like a mask that is the wrong way round
MOSTLY = 0.8


def spoken(*outputs: Any, text: str) -> io.NodeOutput:
    """Outputs with a text that the editor shows on the node (web/report.js) and the API finds in the history."""
    return io.NodeOutput(*outputs, ui=ui.PreviewText(text)) if text else io.NodeOutput(*outputs)


def paragraphs(*texts: str) -> str:
    """The texts that are not empty, a line each."""
    return "\n".join(filter(None, texts))


def fit_in_words(measurement: Measurement, values: Tensor, kind: str, greyed: bool = False) -> str:
    """How well pictures explain a measurement.

    Args:
        values: `measurement.agreement` of the pictures, one for each.
        kind: what they are, one of EXPECTED; "picture" is for a node that cannot know.
        greyed: whether colours that were seen are left out.
    """
    if not measurement.noisy:
        seen = f"residual RMS {_listed(values, 3)} (white is 1)"
        if values.max().item() < (2 * ROUNDING if measurement.operator.linear else OWN_ROUNDING):
            return f"{seen}: agrees with what was seen, but for rounding."
        if greyed:
            return f"{seen}: {GREYED}"
        return (
            f"{seen}: more than the rounding of 8 bits, {ROUNDING:.4f}. The damage is not quite as described, or there is "
            f"noise: raise sigma_y, to about {values.mean().item():.2g}."
        )
    value, (low, high) = values.mean().item(), EXPECTED[kind]
    article = (
        f"a {kind}: {low} to {high}" if kind != "picture" else f"a sample: 1; a restoration or mean: {low} to {high}"
    )
    if value > high and greyed:
        words = GREYED
    elif value > high:
        words = f"the picture misses what was seen. {_cause(measurement.operator.label)}{_level(measurement, value)}."
    elif value < low and torch.as_tensor(measurement.noise.sigma).min() > 0:
        less = f"there is less of it than sigma_y says: then lower sigma_y{_level(measurement, value)}"
        words = f"the picture follows the noise, as after few steps, or {less}."
    else:
        words = "agrees with what was seen."
    return f"fit {_listed(values, 3)} (expected for {article}): {words}"


def losses_in_words(measurement: Measurement) -> str:
    """How much was lost under a mask, and how many masks there were; nothing where nothing was lost."""
    operator = measurement.operator
    if "Inpainting" not in operator.label:
        return ""
    masks = f"{operator.batch} masks: a result for each." if operator.batch > 1 else ""
    support = operator.support(measurement.y)
    return paragraphs(share_in_words(0.0 if support is None else 1 - support.double().mean().item()), masks)


def share_in_words(lost: float) -> str:
    """How much is lost, from 0 to 1, and a question where it is nearly everything."""
    if lost == 0:
        return ""
    share = f"{100 * lost:.1f} % of the picture is masked"
    return (
        f"{share}: is the mask inverted? White marks what is lost (Invert Mask turns it)."
        if lost > MOSTLY
        else f"{share}."
    )


def rounding_in_words(measurement: Measurement) -> str:
    """What of a clean picture is below its rounding; nothing where nothing is."""
    drowned = measurement.drowned()
    if drowned < 0.005:
        return ""
    return f"{100 * drowned:.0f} % of the directions are below the rounding of 8 bits and were left to the prior."


def likelihood_in_words(bits: Tensor, error: Tensor, numbers: int) -> str:
    """How likely pictures are under a model.

    Args:
        bits: per number, one for each picture.
        error: standard error of that.
        numbers: of a picture (or latent).
    """
    spread = error.max().item()
    words = f"{_listed(bits, 4)} bits per number (+- {spread:.2g}), {numbers} numbers: smaller is likelier; without a model 8."
    if len(bits) > 1:
        best, gap = bits.argmin().item() + 1, (bits.max() - bits.min()).item()
        sure = "" if gap > 4 * spread else ", which is within the error: more draws"
        words += f" The likeliest is picture {best}, by {gap * numbers:.3g} bits over the last{sure}."
    return words


def _cause(label: str) -> str:
    """What may be wrong with the damage as it was described."""
    for word, cause in CAUSES.items():
        if word in label.lower():
            return f"{cause}, or sigma_y too small"
    return "The damage is not as described, or sigma_y too small"


CAUSES = {
    "after": "A part of the damage or the order is not as described",
    "blur": "Blur too wide or of another shape",
    "downscale": "Another way of reducing",
    "inpainting": "Damage that the mask leaves out (grow it)",
    "jpeg": "Another quality or chroma",
}


def _level(measurement: Measurement, fit: float) -> str:
    """The sigma_y at which this picture would fit, where the noise is a single number."""
    noise = measurement.noise
    if not isinstance(noise, GaussianNoise) or torch.as_tensor(noise.sigma).numel() != 1:
        return ""
    return f" (about {fit * float(noise.sigma):.2g})"


def _listed(values: Tensor, digits: int) -> str:
    """Up to four numbers, of more the least and the largest."""
    numbers = [f"{value:.{digits}g}" for value in values.tolist()]
    low, high = f"{values.min().item():.{digits}g}", f"{values.max().item():.{digits}g}"
    return ", ".join(numbers) if len(numbers) <= 4 else f"{low} to {high}"
