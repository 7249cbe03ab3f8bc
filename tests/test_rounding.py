"""Clean means 8 bits: every linear operator, on a damaged photo that was rounded, by every way a user has (case A1)."""

from __future__ import annotations

import math
import re

import pytest
import torch
from operator_rows import LINEAR, Row, dot, hole, random_kernel, weight
from torch import Tensor

from posterior.guidance.auto import automatic
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import ROUNDING, GaussianNoise
from posterior.operators import kernels
from posterior.operators.base import Operator
from posterior.operators.compose import compose
from posterior.operators.convolution import CircularConvolution, convolution
from posterior.operators.crop import Crop
from posterior.operators.dense import Dense
from posterior.operators.diagonal import Weight
from posterior.operators.downscale import Resize, downscale
from posterior.operators.grayscale import Grayscale
from posterior.operators.identity import Scale
from posterior.operators.inpainting import Inpainting
from posterior.operators.jpeg import JPEG
from posterior.operators.stack import stack
from posterior.photos import load_photo

SIDE, STEPS = 32, 4

#: rows of the registry whose operator is made for one size, at the photo's
SIZED = {
    "inpainting": lambda: Inpainting(hole(1, 1, SIDE, SIDE)),
    "inpainting, a mask each": lambda: Inpainting(hole(1, 1, SIDE, SIDE)),
    "resize": lambda: Resize((SIDE, SIDE), (20, 25)),
    "hole before a blur": lambda: compose(convolution(kernels.gaussian(0.4)), Inpainting(dot(SIDE, SIDE))),
    "hole before a box downscale": lambda: compose(downscale(4, "box"), Inpainting(dot(SIDE, SIDE))),
    "box downscale": lambda: downscale(4, "box"),
    "lanczos downscale": lambda: downscale(4, "lanczos"),
    "matrix": lambda: Dense(random_kernel(1, 1, 40, 3 * SIDE * SIDE)[0, 0] * SIDE, (3, SIDE, SIDE)),
    "weighted crop": lambda: compose(Weight(weight(1, 1, SIDE - 2, SIDE - 4)), Crop(1, 0, 3, 2)),
    "masked downscale": lambda: compose(Inpainting(hole(1, 1, 8, 8)), downscale(4, "box")),
    "weighted blur": lambda: compose(
        Weight(weight(1, 3, SIDE, SIDE)), CircularConvolution(random_kernel(1, 1, 3, 3))
    ),
    "stack": lambda: stack(
        [Grayscale(), Scale(0.5), Crop(2, 1, 0, 0)],
        [(1, SIDE, SIDE), (3, SIDE, SIDE), (3, SIDE - 1, SIDE - 2)],
    ),
}  # fmt: skip
#: damage as users have it
FIELD = [
    Row("gaussian blur of 1", lambda: convolution(kernels.gaussian(1.0), "reflect")),
    Row("gaussian blur of 2", lambda: convolution(kernels.gaussian(2.0), "reflect")),
    Row("disk of 3", lambda: convolution(kernels.disk(3.0), "reflect")),
    Row("motion of 15", lambda: convolution(kernels.motion(15, 30), "reflect")),
    Row("bicubic x4", lambda: downscale(4, "bicubic")),
]


#: a sample has twice the squared error of the mean
SAMPLE_DB = 3.1


def psnr(x: Tensor, clean: Tensor) -> float:
    return -10 * math.log10((x.clamp(0, 1) - clean).double().square().mean().clamp_min(1e-9).item())


def rounded(x: Tensor) -> Tensor:
    return (255 * x.clamp(0, 1)).round() / 255


def photo() -> Tensor:
    return rounded(load_photo("chelsea", 2 * SIDE).movedim(-1, 1)[..., 16:48, 16:48])


def measured(operator: Operator, clean: Tensor, sigma: float) -> Measurement:
    """A file of the damaged photo where there can be one, else the numbers."""
    noise = GaussianNoise(sigma)
    if not operator.pictorial:
        return Measurement.simulate(operator, clean, noise, 0)
    return Measurement.observe(operator, rounded(operator(clean)), noise)


@pytest.fixture(scope="module")
def model(host):
    return host.call("PosteriorPhotoPrior")


def ways(host, model, measurement: Measurement) -> dict[str, Tensor]:
    """Solve restoration and samples, Auto Guidance in Guided DDIM, and in a KSampler by Apply Guidance."""
    found = {}
    for estimate in ("restoration", "samples"):
        inputs = {"model": model, "measurement": measurement, "estimate": estimate, "steps": STEPS, "seed": 0}
        found[estimate] = host.call("PosteriorSolve", **inputs)[0].movedim(-1, 1)
    guidance, _ = host.call("PosteriorAutoGuidance", measurement=measurement, steps=STEPS)
    empty = host.call("PosteriorStartingPoint", measurement=measurement)
    sampler = host.call("PosteriorGuidedDDIM", guidance=guidance)
    sigmas = host.call("KarrasScheduler", steps=STEPS, sigma_max=80.0, sigma_min=0.01, rho=7.0)
    samples, _ = host.sample(model, sampler, sigmas, empty)
    guided, prompt = host.call("PosteriorApplyGuidance", model=model, guidance=guidance), [[None, {}]]
    settings = {"seed": 0, "steps": STEPS, "cfg": 1.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}
    latent = host.call("KSampler", model=guided, positive=prompt, negative=prompt, latent_image=empty, **settings)
    return found | {"guided ddim": (samples + 1) / 2, "ksampler": (latent["samples"] + 1) / 2}


@pytest.mark.parametrize("row", LINEAR + FIELD, ids=str)
def test_eight_bits_are_clean_enough(row: Row, host, model):
    """sigma_y = 0 and defaults: never below the damaged picture or what undoes it, and as good as with the noise of the
    rounding told."""
    clean, operator = photo(), SIZED.get(row.name, row.make)().to("cpu", torch.float32)
    silent, told = (measured(operator, clean, sigma) for sigma in (0.0, ROUNDING))
    if silent.noise.level != 0:
        pytest.skip("it is noisy by itself")
    damaged, back = silent.y, operator.pinv(silent.y)
    least = psnr(damaged if damaged.shape == clean.shape else back, clean) if operator.pictorial else 0.0
    pictures = ways(host, model, silent)
    block, other = (automatic(each, STEPS).blocks[0] for each in (silent, told))
    same = type(block) is type(other) and block.measurement.noise.level == other.measurement.noise.level
    reference = pictures if same else ways(host, model, told)
    for way, picture in pictures.items():
        slack = 0.1 if way == "restoration" or damaged.shape == clean.shape else SAMPLE_DB
        got = psnr(picture, clean)
        assert got > min(least, 50.0) - slack, (way, got, least)
        assert got > min(psnr(reference[way], clean), 50.0) - 1, way


def solved(host, model, operator: Operator, y: Tensor, sigma: float, **inputs) -> tuple[Tensor, str]:
    """Solve's picture and report, of a damaged picture."""
    inputs = {"steps": 8, "seed": 0, "measurement": Measurement.observe(operator, y, GaussianNoise(sigma))} | inputs
    image, _, _, report = host.call("PosteriorSolve", model=model, **inputs)
    return image.movedim(-1, 1), report


def test_the_report_says_what_was_cut(host, model):
    blur = convolution(kernels.gaussian(2.0), "reflect")
    _, report = solved(host, model, blur, rounded(blur(photo())), 0.0, steps=1)
    assert re.search(r"\n(8\d|9\d) % of the directions are below the rounding of 8 bits", report)


def test_known_pixels_are_the_users_own(host, model):
    """Case E4: the default of 0.02 over a clean photo; what is as noisy as it says is smoothed as ever."""
    clean = rounded(load_photo("rocket", 64).movedim(-1, 1))
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 20:28, 30:36] = 1
    keep = (mask == 0).expand_as(clean)
    image, report = solved(host, model, Inpainting(mask), clean * (1 - mask), 0.02)
    assert torch.equal(image[keep], clean[keep]) and "kept as they are" in report
    noisy = rounded(clean + 0.02 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)))
    image, report = solved(host, model, Inpainting(mask), noisy * (1 - mask), 0.02)
    assert psnr(image, clean) > psnr(noisy, clean) + 2 and "kept" not in report


@pytest.mark.parametrize("estimate", ["restoration", "samples"])
def test_grey_photos_stay_grey(host, model, estimate):
    """Case A14."""
    grey = rounded(photo().mean(1, keepdim=True)).expand(-1, 3, -1, -1)
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 10:20, 10:20] = 1
    image, report = solved(host, model, Inpainting(mask), grey * (1 - mask), 0.0, estimate=estimate)
    assert (image.amax(1) - image.amin(1)).max() < 0.5 / 255 and "kept grey" in report


@pytest.mark.parametrize("sigma", [0.0, 0.02])
def test_colours_grow_from_grey(host, model, sigma):
    """Case A13: a restoration from luminance alone is not green, and has the luminance."""
    y = rounded(Grayscale()(photo()))
    image, _ = solved(host, model, Grayscale(), y, sigma)
    red, green, blue = image.mean((0, 2, 3)).tolist()
    assert abs(green - red) < 0.02 and abs(green - blue) < 0.02
    assert (Grayscale()(image) - y).square().mean().sqrt() < 0.02
    start = host.call("PosteriorBackProjection", measurement=Measurement.observe(Grayscale(), y, GaussianNoise(sigma)))
    assert torch.allclose(start.movedim(-1, 1), y.expand(-1, 3, -1, -1), atol=1e-5)


def test_noise_alone_takes_one_call(host, model):
    """Case E3: the mean of the posterior is the model's own answer at the level of the noise."""
    y = photo() / 2 + 0.05 * torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    image, report = solved(host, model, Scale(0.5), y, 0.05)
    sampler, sigmas = host.call("PosteriorAnnealedRestoration"), torch.tensor([0.2, 0.0])
    noise, guider = host.call("DisableNoise"), host.call("BasicGuider", model=model, conditioning=[[None, {}]])
    latent = {"samples": 4 * y - 1}
    parts = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": latent}
    called = host.call("SamplerCustomAdvanced", **parts)
    assert torch.allclose(image, ((called[0]["samples"] + 1) / 2).clamp(0, 1), atol=1e-5)
    assert "one model call" in report and psnr(image, photo()) > psnr(2 * y, photo()) + 5


def test_jpeg_is_restored(host, model):
    """Case E2: better than the JPEG, and than all of Pi-GDM's way in each step, as the JPEG's own template went."""
    clean = rounded(load_photo("coffee", 64).movedim(-1, 1))
    y = JPEG(20)(clean)
    image, report = solved(host, model, JPEG(20), y, 0.02, steps=12)
    measurement = Measurement.observe(JPEG(20), y, GaussianNoise(0.02))
    guidance = host.call("PosteriorPiGDM", measurement=measurement, jacobian="none")
    whole, _ = solved(host, model, JPEG(20), y, 0.02, steps=12, guidance=guidance)
    assert report.splitlines()[-1].startswith("restoration by Pi-GDM")
    assert psnr(image, clean) > psnr(y, clean) + 0.4 and psnr(image, clean) > psnr(whole, clean)


def test_noise_that_was_not_told_is_found(host, model):
    """Case E6: a blurred picture with nine times the noise of its rounding."""
    blur, clean = convolution(kernels.disk(3.0), "reflect"), rounded(load_photo("coffee", 64).movedim(-1, 1))
    y = rounded(blur(clean) + 0.01 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)))
    image, report = solved(host, model, blur, y, 0.0)
    guidance, _ = host.call("PosteriorAutoGuidance", measurement=Measurement.observe(blur, y, GaussianNoise(0.0)))
    believed, _ = solved(host, model, blur, y, 0.0, guidance=guidance)
    assert "as the photo shows" in report
    assert psnr(image, clean) > psnr(y, clean) + 1 and psnr(image, clean) > psnr(believed, clean) + 3


def test_too_little_noise_does_a_blurred_photo_no_harm(host, model):
    """A third of the noise was told: the photo shows the rest, and the answer is the one for the whole."""
    clean, blur = load_photo("chelsea", 96).movedim(-1, 1), convolution(kernels.disk(3.0))
    y = rounded(Measurement.simulate(blur, clean, GaussianNoise(0.01), 1).y)
    (little, report), (whole, _) = (solved(host, model, blur, y, sigma) for sigma in (0.003, 0.01))
    assert "as the photo shows" in report
    assert psnr(little, clean) > max(psnr(y, clean), psnr(whole, clean) - 0.5)


def test_noise_that_a_small_picture_cannot_show_is_found_in_the_residual(host, model):
    clean, blur = photo(), convolution(kernels.disk(3.0))
    y = rounded(Measurement.simulate(blur, clean, GaussianNoise(0.01), 1).y)
    _, report = solved(host, model, blur, y, 0.003)
    assert "could not explain" in report


def test_a_faded_photo_is_read_without_its_offset():
    """Case A14: levels 0.35 + 0.4 x."""
    mask, clean = torch.eye(SIDE)[None, None], photo()
    for operator in (Scale(0.4, 0.35), compose(Inpainting(mask), Scale(0.4, 0.35))):
        seen = Measurement.observe(operator, 0.35 + 0.4 * clean, GaussianNoise(0.0))
        assert seen.residual(clean).abs().max() < 1e-6


@pytest.mark.parametrize("method", ["DDNM", "DDS", "DiffPIR", "PiGDM"])
def test_methods_that_are_made_for_clean_pictures_know_eight_bits(host, model, method):
    """In a sampler of the host, which makes the step itself."""
    blur, clean = convolution(kernels.gaussian(2.0), "reflect"), photo()
    y = rounded(blur(clean))
    measurement = Measurement.observe(blur, y, GaussianNoise(0.0))
    guidance = host.call(f"Posterior{method}", measurement=measurement)
    guided = host.call("PosteriorApplyGuidance", model=model, guidance=guidance)
    settings = {"seed": 0, "steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}
    latent, prompt = host.call("PosteriorStartingPoint", measurement=measurement), [[None, {}]]
    made = host.call("KSampler", model=guided, positive=prompt, negative=prompt, latent_image=latent, **settings)
    assert psnr((made["samples"] + 1) / 2, clean) > psnr(y, clean)
