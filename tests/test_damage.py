"""Damage as it comes: masks before a blur or JPEG, masks of other programs, JPEG files of cameras, dithered pictures.

The names A2 to A12 and E9 are those of the field cases that each test keeps right.
"""

from __future__ import annotations

import pytest
import torch
from pillow_pictures import saved, tensor
from test_operator_references import photo
from torch import Tensor

from posterior.algebra.refusal import Refusal
from posterior.measurement.blend import keep_measured
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.measurement.smooth import smooth_start
from posterior.operators import kernels
from posterior.operators.compose import compose
from posterior.operators.convolution import convolution
from posterior.operators.crop import Crop
from posterior.operators.downscale import Resize, downscale
from posterior.operators.grayscale import Grayscale
from posterior.operators.identity import Identity, Scale
from posterior.operators.inpainting import Inpainting
from posterior.operators.jpeg import JPEG
from posterior.operators.pointwise import Gamma, Quantisation
from posterior.operators.sensing import Subsampled
from posterior.photos import load_damage

SIZE = 64
LEVEL = 0.01


def lettering(size: int = SIZE) -> Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[..., 20:23, 6:30] = mask[..., 8:26, 14:17] = 1
    return mask


def written(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask > 0, 1.0, x)


AFTER = {
    "gaussian": lambda: convolution(kernels.gaussian(1.5), "reflect"),
    "motion": lambda: convolution(kernels.motion(7, 30), "reflect"),
    "valid": lambda: convolution(kernels.disk(2.0), "valid"),
    "bicubic": lambda: downscale(2),
    "box": lambda: downscale(4, "box"),
    "resize": lambda: Resize((SIZE, SIZE), (40, 50), "lanczos"),
    "grey": Grayscale,
    "darker": lambda: Scale(0.3),
    "gamma": lambda: Gamma(2.2),
    "levels": lambda: Quantisation(6),
    "jpeg": lambda: JPEG(30),
    "wide jpeg": lambda: JPEG(60, "4:2:2", offset=(3, 5), orientation=6),
    "blurred jpeg": lambda: compose(JPEG(40, "4:4:4"), convolution(kernels.gaussian(1.0), "reflect")),
}


@pytest.mark.parametrize("name", AFTER)
def test_what_a_hole_reaches_says_nothing(name: str) -> None:
    """A2: lettering, and then something else; wired as it happened, the truth fits. The rest is used as it can be."""
    A, x, mask = AFTER[name](), photo(size=SIZE), lettering()
    y = A(written(x, mask))
    operator = compose(A, Inpainting(mask))
    measurement = Measurement.observe(operator, y, GaussianNoise(LEVEL))
    assert measurement.fit(x).item() < 1.2
    wrong = (A(written(x, mask)) - A(x)).abs() > 0.5 / 255
    support, spread = operator.support(y).expand_as(y), operator.spread(y)
    assert not (wrong & (support > 0) & (True if spread is None else spread == 0)).any()
    if spread is not None:  # JPEG's blocks, whose rounding is said for plain lettering; blurred, it is less
        touched = (spread > 0) & (support > 0)
        assert 0.2 < ((measurement.residual(x) / measurement.noise.deviation(y))[touched]).square().mean().sqrt() < 1.2
    assert 0.3 < support.mean() < 1  # and no more than that
    grown = torch.nn.functional.max_pool2d(wrong.any(1).float(), 33, 1, 16)
    assert (support.amin(1)[grown == 0] == 1).all()
    if spread is None:  # chroma of JPEG is shared
        v = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
        assert (operator.vjp(x, v) * mask).abs().max() < 0.02 * operator.vjp(x, v).abs().max()


def test_the_order_of_mask_and_jpeg_does_not_matter() -> None:
    """A2: a file is saved last, so what a mask marks in it was there before; and Pillow's own file fits."""
    x, mask = photo(size=128), lettering(128)
    for quality in (10, 30, 60, 90):
        y = tensor(saved(written(x, mask), quality=quality))
        for operator in (compose(JPEG(quality), Inpainting(mask)), compose(Inpainting(mask), JPEG(quality))):
            measurement = Measurement.observe(operator, y, GaussianNoise(0.005))
            # of the coarsest steps nearly nothing is in doubt
            assert (0.2 if quality > 10 else 0) < measurement.fit(x).item() < 1.2
            assert torch.equal(operator.support(y)[:, :1], 1 - mask) and (operator.spread(y) > 0).any()


def test_masks_move_outwards_through_chains() -> None:
    """Mask, blur, reduction: one mask at the end, and none of it where the operators before it leave the hole alone."""
    x, mask = photo(size=SIZE), lettering()
    blur, small = convolution(kernels.gaussian(1.0), "reflect"), downscale(2)
    operator = compose(small, compose(blur, Inpainting(mask)))
    y = small(blur(written(x, mask)))
    assert Measurement.observe(operator, y, GaussianNoise(LEVEL)).residual_rms(x).item() < 0.5 / 255
    assert isinstance(operator.outer, Inpainting)
    two = compose(Inpainting(mask.flip(-1)), compose(blur, Inpainting(mask)))
    assert torch.equal(two.support(x), two.support(x) * (1 - mask.flip(-1)))
    with pytest.raises(Refusal, match="reaches every pixel through"):
        compose(blur, Inpainting((torch.arange(SIZE) % 4 == 0).float().expand(1, 1, SIZE, SIZE)))
    sensed = compose(Subsampled("dct", 0.4, "uniform", 1), Inpainting(mask))
    assert torch.equal(sensed(x), sensed(x * (1 - mask)))  # only simulated: the hole is black there


def test_soft_masks_before_a_blur_are_holes() -> None:
    blur = convolution(kernels.gaussian(1.0), "reflect")
    soft = 0.3 * lettering()
    soft[..., 40:44, 40:44] = 1
    operator = compose(blur, Inpainting(soft, 0.5, 0.5))
    assert (operator.support(photo(size=SIZE)) * (soft > 0)).max() == 0


def test_masks_from_other_programs() -> None:
    """A3: what a JPEG makes of a mask; grey black and grey white are named in the sentence."""
    mask = (load_damage("scratches", 128) > 0.5).float()[:, None]
    stored = tensor(saved(mask.expand(-1, 3, -1, -1), quality=75))[:, :1]
    assert Inpainting(stored).keep.mean() < Inpainting(mask).keep.mean()
    assert torch.equal(Inpainting(stored, 0.5).keep, Inpainting(mask).keep)
    grey = 16 / 255 + mask * 219 / 255
    with pytest.raises(Refusal, match=r"darkest value is 0\.0627 .* from 0\.02 upwards; .* set the threshold higher"):
        Inpainting(grey)
    assert torch.equal(Inpainting(grey, 0.5).keep, Inpainting(mask).keep)
    with pytest.raises(Refusal, match=r"nowhere brighter than 0\.295 .* from 0\.5 upwards.*set the threshold lower"):
        Inpainting(0.295 * mask, 0.5, 0.5)
    with pytest.raises(Refusal, match="The mask is empty"):
        Inpainting(0 * mask)
    with pytest.raises(Refusal, match="leave some pixels unmasked"):
        Inpainting(torch.ones_like(mask))


def test_grown_masks() -> None:
    """E9: so many pixels to each side."""
    mask = torch.zeros(1, 1, 20, 20)
    mask[..., 9, 12] = 1
    keep = Inpainting(mask, grow=3).keep
    assert (keep == 0).sum() == 49 and (keep[..., 6:13, 9:16] == 0).all()


def test_frames_with_a_mask_each_one_of_them_empty() -> None:
    """A5: that frame passes untouched."""
    mask = torch.cat([lettering(), 0 * lettering()])
    x = photo(size=SIZE).expand(2, -1, -1, -1)
    assert torch.equal(Inpainting(mask)(x)[1], x[1]) and Inpainting(mask).batch == 2
    with pytest.raises(Refusal, match="covers the whole picture"):
        Inpainting(torch.cat([mask[:1], torch.ones_like(mask[:1])]))


@pytest.mark.parametrize("name", ["plain", "gaussian", "jpeg", "bicubic"])
def test_several_masks_for_one_picture(name: str) -> None:
    """A6: a result for each, behind other damage too."""
    masks = torch.cat([lettering(), lettering().flip(-1)])
    A = AFTER[name]() if name in AFTER else Identity()
    operator, x = compose(A, Inpainting(masks)), photo(size=SIZE)
    simulated = Measurement.simulate(operator, x, GaussianNoise(LEVEL), 0)
    observed = Measurement.observe(operator, A(x), GaussianNoise(LEVEL))
    noise_maps = GaussianNoise(LEVEL * torch.ones(2, 1, *observed.y.shape[2:]))
    Measurement.observe(operator, A(x), noise_maps)
    for measurement in (simulated, observed):
        assert len(measurement.y) == operator.batch == 2
        assert measurement.residual(x.expand(2, -1, -1, -1)).shape == measurement.y.shape
    with pytest.raises(Refusal, match="2 noise maps and 1 pictures; give one for all, or one for each"):
        Measurement.observe(A, A(x), noise_maps)
    with pytest.raises(Refusal, match="2 masks and 3 pictures"):
        Measurement.observe(operator, A(x).expand(3, -1, -1, -1), GaussianNoise(LEVEL))


def test_soft_edges_and_paste_back() -> None:
    """A7: what is half covered does not go back as if it were clean."""
    soft = torch.nn.functional.pad(torch.ones(1, 1, 8, 8), (28, 28, 28, 28))
    soft = soft + 0.4 * (torch.nn.functional.max_pool2d(soft, 5, 1, 2) - soft)
    x = torch.full((1, 3, SIZE, SIZE), 0.2)
    y = (1 - soft) * x + soft
    measurement = Measurement.observe(Inpainting(soft, 0.5, 0.5), y, GaussianNoise(0.0))
    kept = keep_measured(measurement, x + 0.05)
    assert (kept - x).abs().max() < 1e-4 < 0.3 < (y - x).abs().max()


def test_a_wider_frame_and_a_mask_in_one_go() -> None:
    """A8: masks and frames after each other are pixels all the same; a blur, a scale and a full picture are not."""
    x, frame = photo(size=SIZE), Crop(4, 0, 8, 6)
    mask = lettering()[..., : SIZE - 6, : SIZE - 12]
    measurement = Measurement.simulate(compose(Inpainting(mask), frame), x, GaussianNoise(0.0), 0)
    kept = keep_measured(measurement, 0.5 * x)
    inside = torch.nn.functional.pad(1 - mask, (4, 8, 0, 6)).expand_as(x) > 0
    assert torch.equal(kept[inside], x[inside]) and not torch.equal(kept, x)
    blur = convolution(kernels.gaussian(1.0), "circular")
    for operator in (blur, Scale(0.5), Identity(), compose(Inpainting(lettering()), blur)):
        with pytest.raises(Refusal, match="measures no pixels that could be kept"):
            keep_measured(Measurement.simulate(operator, x, GaussianNoise(0.0), 0), x)


def test_a_hole_in_a_jpeg_is_closed_in_the_start() -> None:
    """A2: a restoration begins at little noise, from which a black hole would stay one."""
    x, mask = photo(size=SIZE), lettering()
    y = JPEG(60)(written(x, mask))
    measurement = Measurement.observe(compose(JPEG(60), Inpainting(mask)), y, GaussianNoise(LEVEL))
    start, hole = smooth_start(measurement), (mask > 0).expand_as(x)
    assert torch.equal(start[~hole], y[~hole])
    assert (start - x)[hole].square().mean() < 0.1 * (y - x)[hole].square().mean()


def test_soft_edges_count_less_in_the_start() -> None:
    """E9: painted soft edges do not stand in the smooth start, where a restoration would leave them."""
    x = photo(size=SIZE)
    soft = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(lettering(), (2, 2, 2, 2)), 5, 1)
    y = (1 - soft) * x + soft
    lost = Measurement.observe(Inpainting(soft), y, GaussianNoise(0.001))
    uncertain = Measurement.observe(Inpainting(soft, 0.5, 2.0), y, GaussianNoise(0.001))
    edge = ((soft > 0) & (soft < 0.5)).expand_as(x)
    errors = [(smooth_start(measurement) - x)[edge].square().mean() for measurement in (lost, uncertain)]
    assert errors[1] < 1.5 * errors[0] and errors[1] < 0.5 * (y - x)[edge].square().mean()
