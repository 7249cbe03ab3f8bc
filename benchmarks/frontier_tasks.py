"""The problems of `bench frontier`: a prior, what was measured, and how good an answer is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..diffusion.level import Level
from ..measurement.measurement import Measurement
from ..measurement.noise import GaussianNoise
from ..operators.base import Operator
from ..operators.convolution import convolution
from ..operators.downscale import downscale
from ..operators.identity import Identity
from ..operators.inpainting import Inpainting, RandomPixels
from ..operators.kernels import gaussian
from ..operators.sensing import Subsampled
from ..priors import digits, photo_data
from ..priors.gaussian import Gaussian
from ..priors.mixture import GaussianMixture
from ..priors.train import Crops, held_out_crops
from .digits import digits_network
from .prior import ROOT, in_image_units, photo_prior, psnr

#: deviation of the pictures of the closed forms, the unit of [0, 1]
DEVIATION, SIGMA_Y, NOISY = 0.25, 0.01, 0.1
SIDE = 64


@dataclass(frozen=True)
class Task:
    """A prior, what was measured, and how good answers are.

    Args:
        denoiser: `(x_t, t) -> x0_hat`, states of pictures in [0, 1] seen from [-1, 1].
        measurement: of one picture, or of one for each answer.
        count: how many answers.
        quality: of answers `B C H W`; smaller is better.
        restore: whether one picture is restored instead of sampled.
    """

    name: str
    denoiser: Callable[[Tensor, Level], Tensor]
    measurement: Measurement
    count: int
    quality: Callable[[Tensor], float]
    restore: bool = False

    def reached(self, quality: float, best: float) -> bool:
        """Whether a quality is within 5 % of the best, for restorations 0.2 dB."""
        return quality <= (10 ** (0.2 / 20) if self.restore else 1.05) * best


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        draws, samples: of closed forms: how many measurements, and samples of each.
        digits: samples of each digit.
        photographs, each: how many photographs, and samples of each.
        restored: photographs that are restored.
    """

    draws: int = 12
    samples: int = 100
    digits: int = 4
    photographs: int = 3
    each: int = 2
    restored: int = 5


# Closed forms


def distance(posteriors: Sequence, samples: int) -> Callable[[Tensor], float]:
    """Sliced Wasserstein distance to exact samples over the posterior's deviation, mean over the measurements."""
    exact = torch.stack([posterior.sample(samples, 77).flatten(1) for posterior in posteriors])
    scale = exact.var(1).sum(1).sqrt() / exact.shape[2] ** 0.5
    directions = torch.randn(exact.shape[2], 100, generator=torch.Generator().manual_seed(0), dtype=exact.dtype)
    directions = directions / directions.norm(dim=0)

    def of(x: Tensor) -> float:
        own = x.to(exact).reshape(exact.shape)
        a, b = ((each @ directions).sort(1).values for each in (own, exact))
        return ((a - b).abs().mean((1, 2)) / scale).mean().item()

    return of


def closed(
    name: str, prior, operator: Operator, samples: int, draws: int = 1, seed: int = 0, sigma: float = SIGMA_Y
) -> Task:
    measurement = Measurement.simulate(operator, prior.sample(draws, 5 + seed), GaussianNoise(sigma), 6 + seed)
    parts = torch.arange(draws).split(1)
    quality = distance([prior.posterior(measurement.take(one)) for one in parts], samples)
    if draws > 1:
        measurement = measurement.take(torch.arange(draws).repeat_interleave(samples))
    return Task(name, prior.denoiser, measurement, draws * samples, quality)


def half(side: int) -> Inpainting:
    mask = torch.zeros(1, 1, side, side)
    mask[..., side // 2 :] = 1
    return Inpainting(mask).to("cpu", torch.float64)


def texture(side: int, correlation: float) -> Gaussian:
    line = torch.arange(side, dtype=torch.float64)
    place = torch.cartesian_prod(line, line)
    covariance = DEVIATION**2 * torch.exp(-torch.cdist(place, place) / correlation)
    return Gaussian.from_covariance(torch.full((1, side, side), 0.5, dtype=torch.float64), covariance)


def mixture(count: int, side: int, seed: int = 0) -> GaussianMixture:
    centres = texture(side, 4.0).sample(count, 9 + seed)
    small = 0.15**2 * texture(side, 2.0).covariance() / DEVIATION**2
    return GaussianMixture([Gaussian.from_covariance(centre, small) for centre in centres], torch.ones(count) / count)


def blurred(width: float) -> Operator:
    return convolution(gaussian(width).double()[..., 1:-1, 1:-1], "circular")


def tasks(samples: int) -> dict[str, Callable[[], Task]]:
    """The problems that other libraries are compared on (`peers`): samples of one measurement, and digits."""
    rows = {
        "texture, half hidden": (texture(12, 4.0), half(12)),
        "texture, pixels lost": (texture(12, 4.0), RandomPixels(0.6, 3)),
        "texture, blurred": (texture(12, 4.0), blurred(1.0)),
        "mixture of 3": (mixture(3, 8), half(8)),
        "mixture of 8": (mixture(8, 8), half(8)),
    }
    made = {name: lambda name=name: closed(name, *rows[name], samples) for name in rows}
    return {**made, "digits": lambda: digit_task(False)}


def many(size: Size, seed: int) -> dict[str, Callable[[], Task]]:
    """Closed forms, each the mean over several measurements: with one, luck decides which way is the best."""
    smooth = texture(10, 4.0)
    rows = {
        "textures, half hidden": (smooth, half(10), SIGMA_Y),
        "textures, half hidden, noisy": (smooth, half(10), NOISY),
        "textures, pixels lost": (smooth, RandomPixels(0.6, 3), SIGMA_Y),
        "textures, blurred": (smooth, blurred(1.0), SIGMA_Y),
        "textures, blurred, noisy": (smooth, blurred(1.0), NOISY),
        "textures, reduced": (smooth, downscale(2), SIGMA_Y),
        "textures, sensed": (smooth, Subsampled("dct", 0.3), SIGMA_Y),
        "mixtures of 3": (mixture(3, 10, seed), half(10), SIGMA_Y),
        "mixtures of 8": (mixture(8, 10, seed), half(10), SIGMA_Y),
    }

    def made(name: str) -> Task:
        prior, operator, sigma = rows[name]
        operator = operator.to("cpu", torch.float64)
        return closed(name, prior, operator, size.samples, size.draws, seed, sigma)

    return {name: lambda name=name: made(name) for name in rows}


# Digits and photographs


def ten_digits(train: bool) -> Tensor:
    """Ten held-out digits, or others, `10 3 32 32` in [0, 1]."""
    if train:
        pictures, _ = digits.split(False)
        clean = (pictures[:: len(pictures) // 10][:10] + 1) / 2
    else:
        with Image.open(ROOT / "photos" / "digits.png") as image:
            grid = torch.from_numpy(np.array(image.convert("L"), dtype=np.float32)) / 255
        clean = grid.reshape(4, 32, 10, 32).transpose(1, 2).reshape(40, 1, 32, 32)[:10]
    return clean.expand(-1, 3, -1, -1)


def digit_task(train: bool, each: int = 1) -> Task:
    """each: samples of each digit."""
    clean, network = ten_digits(train), digits_network("digits_prior.safetensors")
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 16:, :] = 1
    measurement = Measurement.simulate(Inpainting(mask), clean, GaussianNoise(SIGMA_Y), 0)
    which = torch.arange(10).repeat_interleave(each)
    true, hidden = clean[which], mask.bool().expand(len(which), 3, -1, -1)
    prior = in_image_units(lambda x, sigma: network(x, sigma.log() / 4))
    quality = lambda x: (x - true)[hidden].square().mean().item()  # noqa: E731
    return Task("digits", prior, measurement.take(which), len(which), quality)


def photographs(count: int, train: bool) -> Tensor:
    """The middles of held-out photographs, or crops that the embedded prior was trained on, `N 3 64 64` in [0, 1]."""
    if train:
        crops = Crops(photo_data.load(), (SIDE,)).draw(count, SIDE, torch.Generator().manual_seed(1))
    else:
        crops = held_out_crops(SIDE)[::2][:count]
    return (crops + 1) / 2


def rms(x: Tensor, clean: Tensor) -> float:
    """The error that the mean PSNR stands for, percent of white."""
    return 100 * 10 ** (-psnr(x, clean) / 20)


def energy(clean: Tensor, each: int, judged: Tensor) -> Callable[[Tensor], float]:
    """The energy score of `each` samples of each photograph where it is judged, percent of white, see `hole`."""

    def of(x: Tensor) -> float:
        scores = []
        for samples, truth in zip(x.split(each), clean, strict=True):
            own, true = samples[:, judged], truth[judged]
            apart = torch.cdist(own, own).sum() / (each * (each - 1))
            scores.append(((own - true).norm(dim=1).mean() - apart / 2).item() / len(true) ** 0.5)
        return 100 * sum(scores) / len(scores)

    return of


def damages() -> dict[str, tuple[Operator, float]]:
    """Operators, and the noise that is added."""
    hole, lower = torch.zeros(2, 1, 1, SIDE, SIDE)
    hole[..., 20:44, 20:44], lower[..., SIDE // 2 :, :] = 1, 1
    return {
        "hole": (Inpainting(hole), SIGMA_Y),
        "half hidden": (Inpainting(lower), SIGMA_Y),
        "pixels lost": (RandomPixels(0.7, 3), SIGMA_Y),
        "blurred": (convolution(gaussian(1.5), "circular"), 0.02),
        "reduced": (downscale(4), SIGMA_Y),
        "noise": (Identity(), NOISY),
    }


def photo_tasks(size: Size, train: bool) -> dict[str, Callable[[], Task]]:
    def sampled(name: str) -> Task:
        operator, sigma = damages()[name]
        clean = photographs(size.photographs, train)
        measurement = Measurement.simulate(operator, clean, GaussianNoise(sigma), 0)
        which = torch.arange(len(clean)).repeat_interleave(size.each)
        hidden = operator.adjoint(torch.ones_like(measurement.y[:1]))[0] == 0 if operator.local else None
        judged = hidden if hidden is not None and hidden.any() else torch.ones_like(clean[0]).bool()
        quality = energy(clean, size.each, judged.expand_as(clean[0]))
        return Task(f"photographs, {name}", photo_prior(), measurement.take(which), len(which), quality)

    def restored(name: str) -> Task:
        operator, sigma = damages()[name]
        clean = photographs(size.restored, train)
        measurement = Measurement.simulate(operator, clean, GaussianNoise(sigma), 0)
        name = f"photographs restored, {name}"
        return Task(name, photo_prior(), measurement, len(clean), lambda x: rms(x, clean), True)

    return {
        **{f"photographs, {name}": lambda name=name: sampled(name) for name in damages()},
        **{f"photographs restored, {name}": lambda name=name: restored(name) for name in damages() if name != "noise"},
    }


def problems(size: Size, train: bool = False) -> dict[str, Callable[[], Task]]:
    """All of them by name. train: other pictures and draws, such as choices may be made on."""
    known = {} if train else tasks(4 * size.samples)
    return {
        **known,
        **many(size, 100 * train),
        "digits": lambda: digit_task(train, size.digits),
        **photo_tasks(size, train),
    }
