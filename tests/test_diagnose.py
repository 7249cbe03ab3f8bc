"""What is read off a damaged picture, beside what was done to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pillow_pictures import drawing, saved, tensor
from scipy.ndimage import binary_dilation, binary_erosion, white_tophat
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from posterior.measurement.jpeg_tables import compression
from posterior.measurement.marks import ALIKE, CONTRAST, SIDE, STEP, Layer
from posterior.measurement.noise import GaussianNoise, PoissonNoise
from posterior.measurement.noise_level import noise_curve, noise_level
from posterior.measurement.plain_noise import estimated_level
from posterior.measurement.scratches import scratches
from posterior.operators import kernels
from posterior.operators.convolution import convolution
from posterior.operators.jpeg import CHROMINANCE, LUMINANCE, quantisation_table
from posterior.photos import load_damage, load_photo
from posterior.photos.damaged import load_damaged

#: steps of a camera: no quality of libjpeg's has them
CAMERA = [[2 + (row + column) ** 2 // 3 for row in range(8) for column in range(8)]] * 2


def photo(size: int = 160, name: str = "chelsea") -> Tensor:
    return load_photo(name, size).movedim(-1, 1)


@pytest.mark.parametrize(
    "quality, subsampling, offset", [(30, "4:2:0", (9, 5)), (75, "4:4:4", (0, 3)), (60, "4:2:2", (12, 1))]
)
def test_jpeg_is_read_off_its_pixels(quality: int, subsampling: str, offset: tuple[int, int]):
    found = compression(tensor(saved(photo(), quality=quality, subsampling=subsampling))[..., offset[1] :, offset[0] :])
    assert (found.subsampling, found.offset, found.quality, found.standard) == (subsampling, offset, quality, True)
    for table, base in zip(found.tables, (LUMINANCE, CHROMINANCE), strict=True):
        assert list(table) == quantisation_table(base, quality).flatten().tolist()


def test_the_operator_that_was_found_changes_nothing_more():
    """decode(encode(y)) = y for the true one: what was rounded once stays, but for the 8-bit rounding in between."""
    y = tensor(saved(photo(), quality=40, subsampling="4:4:4"))[..., 3:, 5:]
    operator = compression(y).operator()
    off = (operator(y) - y)[..., 8:-8, 8:-8]  # whole blocks
    assert off.square().mean().sqrt() < 0.002


def test_tables_of_a_camera_are_read_step_by_step():
    found = compression(tensor(saved(photo(), qtables=CAMERA, subsampling="4:4:4")))
    low = [8 * i + j for i in range(3) for j in range(3 - i)]
    assert not found.standard and [found.tables[0][k] for k in low] == [CAMERA[0][k] for k in low]


def test_of_two_compressions_the_stronger_is_found():
    once = tensor(saved(photo(192), quality=20, subsampling="4:4:4"))
    assert compression(tensor(saved(once, quality=92, subsampling="4:4:4"))).quality == 20


@pytest.mark.parametrize("name", ["chelsea", "stream"])
def test_a_photo_that_was_never_compressed_has_no_jpeg(name: str):
    assert compression(photo(name=name)) is None


BANDS = torch.linspace(0, 1, 160).expand(1, 3, 160, -1)
FLAT = {
    "black": 0 * BANDS, "white": 0 * BANDS + 1, "one edge": (BANDS > 0.5).float(), "ramp": (255 * BANDS).round() / 255,
    "stripes": (torch.arange(160) % 2.0).expand(1, 3, 160, -1), "dark": (6 * photo()).round() / 255,
    "one bit": torch.rand(1, 1, 160, 160, generator=torch.Generator().manual_seed(0)).round().expand(-1, 3, -1, -1),
    "drawing": drawing(),
}  # fmt: skip


@pytest.mark.parametrize("name", FLAT)
def test_what_is_flat_has_no_jpeg(name: str):
    """Its few levels, and blocks that come again and again, make combs too."""
    assert compression(FLAT[name]) is None


@pytest.mark.parametrize("quality", [20, 90])
def test_jpeg_of_a_drawing_is_found(quality: int):
    found = compression(tensor(saved(drawing(), quality=quality)))
    assert found.standard and found.subsampling == "4:2:0" and abs(found.quality - quality) <= 1


@pytest.mark.parametrize("gain, read", [(0.0, 0.05), (0.02, 0.01), (0.004, 0.03)])
def test_the_noise_of_a_camera_is_read_off_flat_parts(gain: float, read: float):
    """A ramp of brightness has nothing but noise in its details; 1024 blocks leave some percent of error."""
    ramp = torch.linspace(0.05, 0.85, 512).expand(1, 1, 512, 512)
    noisy = (PoissonNoise(gain, read) if gain else GaussianNoise(read)).sample(ramp, 0)
    found, sigma = noise_curve(noisy)
    for brightness in (0.1, 0.4, 0.8):
        assert found * brightness + sigma**2 == pytest.approx(gain * brightness + read**2, rel=0.3)
    assert found == pytest.approx(gain, rel=0.2, abs=5e-4)


def test_rounding_counts_as_no_noise():
    smooth = convolution(kernels.gaussian(2.0)).forward(photo())
    assert estimated_level((255 * smooth).round() / 255) == 0
    noisy = GaussianNoise(0.02).sample(smooth, 0)
    assert estimated_level(noisy) == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize("sigma", [0.0, 0.005, 0.01, 0.05])
def test_texture_is_no_noise(sigma: float):
    """A stream is texture everywhere: its smoothest tenth passes for 0.03. It has noise of its own, of 0.0035."""
    noisy = GaussianNoise(sigma).sample(photo(256, "stream"), 0)
    noisy = (255 * noisy.clamp(0, 1)).round() / 255
    found = estimated_level(torch.cat([noisy, noisy]))
    assert found == pytest.approx((sigma**2 + 0.0035**2) ** 0.5, rel=0.15) and noise_level(noisy) > found


@pytest.mark.parametrize("colour", [(1.0, 1.0, 1.0), (0.96, 0.96, 0.93)])
def test_lettering_is_found_and_a_clean_photo_is_left_alone(colour: tuple[float, float, float]):
    mask, clean = load_damage("text and scratches", 160)[None], photo()
    damaged = torch.where(mask > 0, torch.tensor(colour)[:, None, None], clean)
    found = scratches(damaged)
    right = (found * mask).sum()
    assert right / mask.sum() > 0.9 and right / found.sum() > 0.7
    assert scratches(clean).mean() < 0.01
    assert not any(scratches(damaged[..., :h, :w]).any() for h, w in ((1, 1), (1, 9), (9, 1)))
    assert scratches(damaged, 0.1).sum() <= found.sum() <= scratches(damaged, 0.9).sum()


def test_dust_of_two_colours_is_found():
    rows, columns = torch.meshgrid(torch.arange(160), torch.arange(160), indexing="ij")
    damaged, mask = photo(), torch.zeros(160, 160, dtype=torch.bool)
    for turn, (y, x) in enumerate(160 * torch.rand(30, 2, generator=torch.Generator().manual_seed(0))):
        speck = (rows - y) ** 2 + (columns - x) ** 2 < (1 + turn / 15) ** 2
        mask |= speck
        damaged = torch.where(speck, 0.05 if turn % 2 else 0.95, damaged)
    found = scratches(damaged)[0, 0] > 0
    assert found[mask].float().mean() > 0.9 and mask[found].float().mean() > 0.7


def test_hard_rims_are_found_to_the_pixel():
    """One pixel that is left costs dB, and so does each that is marked beside it, whatever fills the rest."""
    clean, mask = photo(), load_damage("text and scratches", 160)[None] > 0
    found = scratches(torch.where(mask, 1.0, clean)) > 0
    edge = binary_dilation(mask[0, 0].numpy(), np.ones((3, 3))) & ~binary_erosion(mask[0, 0].numpy(), np.ones((3, 3)))
    wrong = (found != mask)[0, 0].numpy()
    assert edge.sum() > 3000 and wrong[edge].mean() < 0.02 and (mask & ~found).sum() <= 2


def test_soft_rims_are_found():
    """Lettering drawn by parts of pixels, as fonts are."""
    large = load_damage("text and scratches", 320)[None].repeat_interleave(2, -1).repeat_interleave(2, -2)
    covered = F.avg_pool2d(large[..., 1:481, 1:481], 3)
    damaged = (1 - covered) * photo() + covered
    found = scratches(damaged) > 0
    assert found[covered > 0.25].float().mean() > 0.8 and (covered > 0)[found].float().mean() > 0.65


def test_soft_letters_are_found_beside_hard_scratches():
    """Of *Damaged Old Photo*; what is left of a letter is seen as its ghost."""
    damaged = load_damaged("scratches and lettering")[0].movedim(-1, 1)
    found, off = scratches(damaged)[:, 0] > 0, (damaged - photo(192)).abs().amax(1)
    assert found[off > 0.1].float().mean() > 0.98 and (off > 0.02)[found].float().mean() > 0.7


def test_specks_of_one_pixel_have_the_colour_of_larger_ones():
    clean, place = photo(), torch.randperm(40 * 40, generator=torch.Generator().manual_seed(1))[:60]
    rows, columns = 4 * (place // 40) + 1, 4 * (place % 40) + 1
    mask = torch.zeros(1, 1, 160, 160, dtype=torch.bool)
    mask[..., rows, columns] = True
    large = place[:30]
    for down, right in ((0, 1), (1, 0), (1, 1)):
        mask[..., 4 * (large // 40) + 1 + down, 4 * (large % 40) + 1 + right] = True
    found = scratches(torch.where(mask, 0.03, clean)) > 0
    seen = mask & ((clean - 0.03).mean(1, keepdim=True) > 0.15)
    assert found[seen].float().mean() > 0.95 and mask[found].float().mean() > 0.95


def test_marks_are_connected_as_scipy_connects_them():
    """The top-hat, the links between alike neighbours and what they join, by another library or pixel by pixel."""
    x = photo(48)
    layer, y = Layer(x), x[0].double().numpy()
    marks = layer.marks()
    hat = np.mean([white_tophat(each, SIDE, mode="reflect") for each in y], 0)
    assert np.abs(layer.hat.numpy() - hat).max() < 1e-6
    links = [
        (48 * i + j, 48 * a + b)
        for i in range(48) for j in range(48)
        for a, b in ((i, j + 1), (i + 1, j), (i + 1, j + 1), (i + 1, j - 1)) if a < 48 and 0 <= b < 48
        and min(hat[i, j], hat[a, b]) > CONTRAST
        and np.abs(y[:, i, j] - y[:, a, b]).max() < max(STEP, ALIKE * min(hat[i, j], hat[a, b]))
    ]  # fmt: skip
    graph = coo_array((np.ones(len(links)), np.array(links).T), (48**2, 48**2))
    _, group = connected_components(graph, directed=False)
    linked = np.bincount(group[[a for a, _ in links]], minlength=48**2)[group] > 1
    label = marks.label.flatten().numpy()
    assert np.array_equal(label >= 0, linked)
    pairs = set(zip(label[linked].tolist(), group[linked].tolist(), strict=True))
    assert len(pairs) == len(marks.area) == len({pair[1] for pair in pairs}) > 10
    assert np.array_equal(np.bincount(label[linked]), marks.area.numpy())
