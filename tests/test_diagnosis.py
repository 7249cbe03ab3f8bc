"""Several kinds of damage are told apart, from the picture alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from pillow_pictures import saved, tensor
from server_prompts import observe, prompt
from server_prompts import photo as example
from torch import Tensor

from posterior.algebra.checkpoint import watched
from posterior.benchmarks.blind_kernels import correlation
from posterior.measurement.diagnosis import diagnose
from posterior.measurement.fading import fading
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.measurement.plain_noise import white_level
from posterior.operators import kernels
from posterior.operators.convolution import convolution
from posterior.operators.jpeg import JPEG
from posterior.photos import load_damage, load_photo
from posterior.photos.damaged import load_damaged
from posterior.tools.server import Server

WITHOUT_JPEG = ("noise", "scratches", "fading", "small size")


def photo(name: str = "chelsea", size: int = 160) -> Tensor:
    return load_photo(name, size).movedim(-1, 1)


def noisy(x: Tensor, sigma: float, seed: int = 0) -> Tensor:
    return tensor_of_bytes(x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)))


def tensor_of_bytes(x: Tensor) -> Tensor:
    return (255 * x.clamp(0, 1)).round() / 255


@pytest.mark.parametrize("name", ["chelsea", "flower", "stream"])
def test_an_undamaged_photo_is_said_to_be_so(name: str):
    found = diagnose(photo(name), WITHOUT_JPEG)
    assert not found.kinds and found.operator().label == "Identity" and "undamaged" in found.words()


@pytest.mark.parametrize("name", ["coffee", "rocket", "stream"])
def test_other_damage_is_not_taken_for_scratches(name: str):
    x = photo(name, 192)
    worn = (
        noisy(x, 0.05), tensor(saved(x, quality=30)), convolution(kernels.gaussian(2.0)).forward(x),
        noisy(x.mean(1, keepdim=True).expand(-1, 3, -1, -1), 0.05),
    )  # fmt: skip
    assert not any(diagnose(y, ("scratches",)).kinds for y in (x, *worn))


@pytest.mark.parametrize("sigma", [0.01, 0.05])
def test_noise_is_told_from_texture(sigma: float):
    """A stream has texture everywhere; in its grey picture noise is seen where it is not much less."""
    assert white_level(noisy(photo("stream", 256), sigma)) == pytest.approx(sigma, rel=0.15)
    grey = photo("stream").mean(1, keepdim=True)
    assert white_level(noisy(grey, 0.05).expand(-1, 3, -1, -1)) == pytest.approx(0.05, rel=0.2)
    assert white_level(tensor_of_bytes(grey).expand(-1, 3, -1, -1)) == 0


def test_noise_is_seen_through_jpeg():
    picture = photo(size=256)
    found = diagnose(tensor(saved(noisy(picture, 0.05), quality=80)), ("JPEG", "noise"))
    assert found.jpeg.quality == 80 and found.noise == pytest.approx(0.05, rel=0.2)
    assert found.operator().label == "Identity"  # noise outweighs it
    clean = diagnose(tensor(saved(picture, quality=80)), ("JPEG", "noise"))
    assert clean.noise == 0 and clean.operator().label == "JPEG"


def test_levels_and_what_lies_over_them():
    """Of a picture whose darkest pixel is black and whose brightest is white, also under noise."""
    clean, mask = photo().mean(1, keepdim=True), load_damage("scratches", 160)[None]
    clean = ((clean - clean.min()) / (clean.max() - clean.min())).expand(-1, 3, -1, -1)
    mask[..., 40:80, 100:140] = 1
    for grain in (0.0, 0.02):
        faded = noisy(0.35 + 0.4 * clean[:, :1], grain).expand(-1, 3, -1, -1)
        faded = torch.where(mask > 0, 1.0, faded)
        levels, lost = fading(tensor_of_bytes(faded))
        assert torch.equal(lost, mask)
        assert levels.offset == pytest.approx(0.35, abs=0.02)
        assert levels.offset + levels.gain == pytest.approx(0.75, abs=0.03)
    found = diagnose(tensor_of_bytes(faded), WITHOUT_JPEG)
    assert found.grey and found.operator().label == "Inpainting after Levels"


def test_a_camera_that_shook_is_named_where_no_blur_of_a_kind_explains_as_much():
    """The middle of the example, a path of 17 pixels; none is seen where the lens was out of focus."""
    found = diagnose(load_damaged("camera shook")[0].movedim(-1, 1)[..., 24:168, 24:168], ("noise", "blur"))
    assert correlation(found.blur.kernel, kernels.camera_shake(8.0, 5)) > 0.8
    assert "any shape" in found.words() and found.noise < 0.015 < found.sigma  # no found kernel is quite right
    soft = diagnose(noisy(convolution(kernels.disk(3.0)).forward(photo()), 0.01), ("noise", "blur"))
    assert soft.blur.kind == "defocus" and soft.sigma == soft.noise


def test_blur_is_read_beside_noise_and_scratches():
    mask = load_damage("scratches", 160)[None]
    blurred = noisy(convolution(kernels.gaussian(2.0)).forward(photo()), 0.01)
    found = diagnose(torch.where(mask > 0, 0.97, blurred), ("noise", "scratches", "blur"))
    assert found.blur.kind == "gaussian" and found.blur.parameters[0] == pytest.approx(2.0, rel=0.15)
    assert found.noise == pytest.approx(0.01, rel=0.15) and found.lost[mask > 0].mean() > 0.9
    assert found.operator().label.startswith("Inpainting after")


@pytest.mark.parametrize("kernel, kinds", [(kernels.disk(3.0), ("JPEG", "blur")), (kernels.gaussian(0.1), ("JPEG",))])
def test_blur_is_read_behind_jpeg(kernel: Tensor, kinds: tuple[str, ...]):
    y = tensor(saved(convolution(kernel).forward(photo("astronaut", 192)).clamp(0, 1), quality=75))
    found = diagnose(y, ("JPEG", "noise", "blur"))
    assert found.kinds == kinds
    if "blur" in kinds:
        assert found.blur.kind == "defocus" and found.blur.parameters[0] == pytest.approx(3.0, abs=0.5)
        assert isinstance(found.operator().outer, JPEG) and found.operator().inner.label == convolution(kernel).label


def test_the_operator_explains_the_picture():
    """With the true levels in place of the mean ones the clean picture would fit; the order is that of the damage."""
    x = photo()
    found = diagnose(tensor_of_bytes(0.3 + 0.4 * x), ("fading",))
    measurement = Measurement.observe(found.operator(), 0.3 + 0.4 * x, GaussianNoise(0.0))
    undone = measurement.operator.pinv(measurement.y)
    assert torch.allclose(found.fading.gain * undone + found.fading.offset, 0.3 + 0.4 * x, atol=1e-5)


def test_an_enlarged_picture_is_restored_from_its_true_size():
    """By Pillow from 128 to 224 pixels, then faded: Observe takes the picture as it is."""
    small = Image.fromarray((255 * photo("cathedral", 128)[0].movedim(0, -1)).round().byte().numpy())
    large = tensor(small.resize((224, 224), Image.Resampling.BICUBIC))
    found = diagnose(tensor_of_bytes(0.35 + 0.4 * large), (*WITHOUT_JPEG, "enlargement"))
    assert found.kinds == ("fading", "enlargement") and found.mask.shape[-2:] == (224, 224)
    assert "enlarged 1.75 times, from 128 x 128 to 224 x 224" in found.words()
    measurement = Measurement.observe(found.operator(), tensor_of_bytes(0.35 + 0.4 * large), GaussianNoise(0.0))
    assert measurement.image_shape == (3, 224, 224)
    # 8 bits are rounded by 0.002 at most, which least squares enlarge several times
    assert (measurement.y + found.fading.offset - 0.35 - 0.4 * tensor(small)).abs().max() < 0.02
    assert (measurement.picture() - 0.35 - 0.4 * large).abs().max() < 0.02
    painted = torch.zeros(1, 1, 224, 224)
    painted[..., :20] = 1
    said = replace(found, lost=painted)  # in the large size, as a mask painted by hand is
    assert "only said" in said.words() and said.operator().label == "Inpainting after Levels"


def test_it_may_be_stopped_between_any_two_steps():
    steps = []
    with watched(steps.append):
        diagnose(photo(size=96), ("JPEG", "scratches", "fading", "enlargement"))
    assert len(steps) >= 4


def test_small_pictures_are_to_be_enlarged():
    small = load_damaged("too small (a quarter)")[0].movedim(-1, 1)
    found = diagnose(small)
    assert found.small == 4 and found.operator().image_shape((1, 3, 48, 48)) == (3, 192, 192)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (1, 70), (40, 63)])
def test_of_tiny_pictures_nothing_else_is_said(size: tuple[int, int]):
    found = diagnose(0.3 + 0.2 * photo()[..., : size[0], : size[1]])
    assert found.kinds == ("small size",) and found.operator().image_shape((1, 3, *size)) == (3, *(4 * n for n in size))


@pytest.mark.parametrize("every", [2, 3])
def test_dots_and_lines_are_no_scratches_and_have_not_faded(every: int):
    """Of a print, whose lines are as thin and as black as damage, and whose means are grey."""
    lines = (torch.arange(160) % every < 1).float().expand(1, 3, 160, -1)
    assert not diagnose(lines, ("scratches", "fading", "noise")).kinds


def test_a_painted_mask_is_added():
    painted = torch.zeros(1, 1, 160, 160)
    painted[..., :20] = 1
    assert torch.equal(diagnose(photo(), ("noise",), painted=painted).lost, painted)


def test_the_node_goes_straight_into_observe(server: Server):
    nodes = {
        "photo": example(96), "found": ("PosteriorDiagnose", {"image": "photo", "sensitivity": 0.5} | dict.fromkeys(
            ("jpeg", "noise", "scratches", "blur", "fading", "small_size"), True)),
        "operator": ("PosteriorIdentity", {}),
    }  # fmt: skip
    nodes["m"] = observe("photo", "found.1", operator="found")
    nodes["shown"] = ("PosteriorPreviewMeasurement", {"measurement": "m"})
    outputs = server.run(prompt(**nodes))
    assert "undamaged" in outputs["found"]["text"][0]
