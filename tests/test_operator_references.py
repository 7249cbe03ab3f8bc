"""Operators against other libraries: scipy, Pillow, numpy, deepinv."""

from __future__ import annotations

import deepinv.physics
import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import scipy.ndimage
import scipy.signal
import torch
from PIL import Image
from torch import Tensor

from posterior.operators import kernels
from posterior.operators.convolution import CircularConvolution, convolution
from posterior.operators.downscale import Resize, downscale
from posterior.operators.grayscale import Grayscale
from posterior.operators.inpainting import Inpainting, Mosaic, RandomPixels
from posterior.operators.phase_retrieval import CodedDiffraction, PhaseRetrieval
from posterior.operators.sensing import Subsampled, sampling_pattern
from posterior.operators.varying_blur import VaryingBlur
from posterior.photos import load_photo

F64 = torch.float64


def noise_picture(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def photo(name: str = "chelsea", size: int = 128) -> Tensor:
    return load_photo(name, size).movedim(-1, 1)


# Blur

KERNELS = {
    "gaussian": kernels.gaussian(1.0),
    "motion": kernels.motion(7, 30),
    "disk": kernels.disk(2.3),
    "shake": kernels.camera_shake(3, 1),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("boundary", ["reflect", "circular", "valid"])
def test_blur_is_scipys(name: str, boundary: str) -> None:
    x, kernel = noise_picture(1, 1, 21, 26), KERNELS[name]
    k = kernel[0, 0].double().numpy()
    if boundary == "valid":
        expected = scipy.signal.convolve2d(x[0, 0].numpy(), k, mode="valid")
    else:
        mode = {"reflect": "reflect", "circular": "wrap"}[boundary]
        expected = scipy.ndimage.convolve(x[0, 0].numpy(), k, mode=mode)
    assert np.abs(convolution(kernel, boundary)(x)[0, 0].numpy() - expected).max() < 1e-12


def test_gaussian_blur_is_scipys_filter() -> None:
    x = noise_picture(1, 1, 40, 33)
    expected = scipy.ndimage.gaussian_filter(x[0, 0].numpy(), 2.0, mode="reflect", truncate=4.0)
    assert np.abs(convolution(kernels.gaussian(2.0))(x)[0, 0].numpy() - expected).max() < 1e-7  # a float32 kernel


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_kernels(name: str) -> None:
    kernel = KERNELS[name]
    assert kernel.shape[-1] % 2 == kernel.shape[-2] % 2 == 1
    assert (kernel >= 0).all() and kernel.sum().item() == pytest.approx(1, abs=1e-6)


def moments(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of where a kernel sends light, in (x, y)."""
    h, w = kernel.shape[-2:]
    y, x = torch.meshgrid(torch.arange(h) - h // 2, torch.arange(w) - w // 2, indexing="ij")
    where, weight = torch.stack([x, y]).flatten(1).double(), kernel.flatten().double()
    mean = where @ weight
    centred = where - mean[:, None]
    return mean, (centred * weight) @ centred.T


def test_kernels_have_their_size() -> None:
    """Closed forms: a line of length l has variance l^2 / 12 along it, a disk r^2 / 4 on each axis."""
    _, covariance = moments(kernels.gaussian(3.0))
    assert torch.allclose(covariance, 9 * torch.eye(2, dtype=F64), atol=0.05)
    _, covariance = moments(kernels.disk(6.0))
    assert torch.allclose(covariance, 9 * torch.eye(2, dtype=F64), atol=0.15)  # and 1 / 12 of the pixels
    mean, covariance = moments(kernels.motion(24, 30))
    values, vectors = torch.linalg.eigh(covariance)
    assert mean.abs().max() < 1e-6 and values[1].item() == pytest.approx(48, rel=0.02) and values[0] < 0.5
    assert abs(vectors[1, 1] / vectors[0, 1]).item() == pytest.approx(np.tan(np.pi / 6), rel=0.01)
    assert (vectors[0, 1] * vectors[1, 1]) < 0  # anticlockwise: up to the right
    assert not torch.equal(kernels.camera_shake(4, 1), kernels.camera_shake(4, 2))


def test_blur_and_prox_are_deepinvs() -> None:
    x, z, kernel = noise_picture(2, 3, 16, 20), noise_picture(2, 3, 16, 20, seed=1), KERNELS["motion"].double()
    ours, theirs = CircularConvolution(kernel), deepinv.physics.BlurFFT((3, 16, 20), kernel)
    y = theirs.A(x)
    assert torch.allclose(ours(x), y) and torch.allclose(ours.adjoint(y), theirs.A_adjoint(y))
    assert torch.allclose(ours.prox(z, y, 0.2), theirs.prox_l2(z, y, 5.0))
    valid = deepinv.physics.Blur(kernel, padding="valid")
    assert torch.allclose(convolution(kernel, "valid")(x), valid.A(x))


def test_varying_blur_is_deepinvs() -> None:
    x = noise_picture(2, 3, 16, 20)
    bank = torch.cat([kernels.motion(5, angle) for angle in (0, 30, 60, 90, 120, 150)]).double()
    ours = VaryingBlur(bank, 3)
    weights = ours._weights(x)
    assert torch.allclose(weights.sum(0), torch.ones(16, 20, dtype=F64))
    theirs = deepinv.physics.SpaceVaryingBlur(bank[None, None, :, 0], weights[None, None], padding="circular")
    assert torch.allclose(ours(x), theirs.A(x), atol=1e-7)


# Masks and colours


def test_masks_are_deepinvs() -> None:
    x = noise_picture(2, 3, 16, 20)
    hole = (noise_picture(1, 1, 16, 20, seed=2) > 0.6).double()
    theirs = deepinv.physics.Inpainting((3, 16, 20), mask=(1 - hole)[0].expand(3, -1, -1))
    ours = Inpainting(hole)
    assert torch.equal(ours(x), theirs.A(x)) and torch.equal(ours.pinv(x), theirs.A_dagger(x))
    assert torch.allclose(ours.prox(x, ours(x) + 0.1, 0.5), theirs.prox_l2(x, ours(x) + 0.1, 2.0))
    bayer = deepinv.physics.Demosaicing((3, 16, 20))
    assert torch.allclose(Mosaic("BGGR")(x).float(), bayer.A(x.float()))
    assert torch.allclose(Grayscale()(x), deepinv.physics.Decolorize().A(x.float()).double(), atol=2e-4)


def test_mosaic_sees_the_named_colour() -> None:
    x = torch.ones(1, 3, 3, 5)
    seen = Mosaic("GRBG")(x)[0]
    rows = ["".join("RGB"[int(colour)] for colour in line) for line in seen.argmax(0)]
    assert rows == ["GRGRG", "BGBGB", "GRGRG"]
    assert torch.equal(seen.sum(0), torch.ones(3, 5))


def test_masks_of_a_batch() -> None:
    hole = (noise_picture(2, 1, 7, 9) > 0.5).double()
    x = noise_picture(2, 3, 7, 9, seed=1)
    both = Inpainting(hole)
    for i in range(2):
        assert torch.equal(both(x)[i], Inpainting(hole[i : i + 1])(x[i : i + 1])[0])


def test_lost_pixels_have_their_share() -> None:
    lost = 1 - RandomPixels(0.7, 3).singular_values(torch.zeros(1, 3, 20, 31))
    assert int(lost.sum()) == round(0.7 * 20 * 31)
    assert not torch.equal(lost, 1 - RandomPixels(0.7, 4).singular_values(torch.zeros(1, 3, 20, 31)))


def test_grey_is_pillows() -> None:
    x = photo(size=64)
    grey = np.asarray(Image.fromarray((x[0].movedim(0, -1) * 255).round().byte().numpy()).convert("L"))
    assert np.abs(Grayscale()((x * 255).round())[0, 0].numpy() - grey).max() < 0.51


# Downscale

FILTERS = {"box": Image.Resampling.BOX, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


@pytest.mark.parametrize("kernel", FILTERS)
@pytest.mark.parametrize("size", [(48, 72), (24, 36), (6, 9), (67, 41), (96, 50)])
def test_downscale_is_pillows(kernel: str, size: tuple[int, int]) -> None:
    x = photo(size=144)[:, :, :96]
    h, w = size
    factors = {96 // h, 144 // w}
    whole = len(factors) == 1 and 96 % h == 144 % w == 0
    operator = downscale(factors.pop(), kernel) if whole else Resize((96, 144), size, kernel)
    for colour in range(3):
        expected = Image.fromarray(x[0, colour].numpy(), mode="F").resize((w, h), FILTERS[kernel])
        assert np.abs(operator(x)[0, colour].numpy() - np.asarray(expected)).max() < 5e-6  # float32


def test_box_downscale_is_deepinvs() -> None:
    x = noise_picture(2, 3, 16, 20)
    mean = torch.ones(1, 1, 4, 4, dtype=F64) / 16
    theirs = deepinv.physics.Downsampling((3, 16, 20), filter=mean, factor=4, padding="valid")
    ours = downscale(4, "box")
    y = theirs.A(x)
    assert torch.allclose(ours(x), y) and torch.allclose(ours.adjoint(y), theirs.A_adjoint(y))


def test_gaussian_downscale_blurs_as_a_gaussian() -> None:
    """Far from the border the rows are a Gaussian of half a new pixel."""
    x = torch.zeros(1, 1, 64, 64, dtype=F64)
    x[..., 32, 32] = 1
    spread = downscale(8, "gaussian").adjoint(downscale(8, "gaussian")(x) * 0 + 1)
    assert spread.sum().item() == pytest.approx(64, rel=1e-9)  # every row sums to 1
    row = downscale(8, "gaussian").matrix(64, -1)[4]
    offset = torch.arange(64) + 0.5 - 36
    expected = torch.exp(-(offset**2) / (2 * 4.0**2)) * (offset.abs() < 16)
    assert torch.allclose(row, (expected / expected.sum()).double(), atol=1e-7)


# Sensing


def test_dct_is_scipys() -> None:
    x = noise_picture(2, 3, 9, 14)
    expected = scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho")
    assert np.abs(Subsampled("dct", 1.0)(x).numpy() - expected).max() < 1e-12


def test_hadamard_is_scipys_in_order_of_sign_changes() -> None:
    x = noise_picture(1, 1, 16, 32)

    def walsh(n: int) -> np.ndarray:
        natural = scipy.linalg.hadamard(n)
        return natural[np.argsort((np.diff(natural) != 0).sum(1))] / np.sqrt(n)

    expected = walsh(16) @ x[0, 0].numpy() @ walsh(32).T
    assert np.abs(Subsampled("hadamard", 1.0)(x)[0, 0].numpy() - expected).max() < 1e-12


def test_fourier_sensing_holds_numpys_coefficients() -> None:
    """The two numbers of a conjugate pair are Re - Im and Re + Im; both are measured or none."""
    x = noise_picture(1, 1, 9, 14)
    operator = Subsampled("fourier", 0.4, "uniform", 3)
    y, keep = operator(x)[0, 0].numpy(), operator.singular_values(x)[0, 0].numpy()
    partner = np.roll(y[::-1, ::-1], (1, 1), (0, 1))
    expected = np.fft.fft2(x[0, 0].numpy(), norm="ortho") * keep
    assert np.abs((y + partner) / 2 - expected.real).max() < 1e-12
    assert np.abs((partner - y) / 2 - expected.imag).max() < 1e-12
    assert keep.mean() == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("transform", ["dct", "hadamard", "fourier"])
@pytest.mark.parametrize("pattern", ["variable density", "low frequencies", "uniform"])
def test_sampling_patterns(transform: str, pattern: str) -> None:
    keep = sampling_pattern(64, 64, 0.2, pattern, transform, 0)
    assert keep.mean().item() == pytest.approx(0.2, abs=1e-3) and keep[0, 0] == 1
    index = torch.arange(64)
    axis = torch.minimum(index, 64 - index) / 32 if transform == "fourier" else index / 64
    distance = axis[:, None] + axis
    if pattern == "low frequencies":
        assert distance[keep == 1].max() <= distance[keep == 0].min() + 1e-6
    else:
        share = (keep[distance < 0.5].mean() / keep.mean()).item()  # density at low frequencies against the mean
        assert 0.8 < share < 1.2 if pattern == "uniform" else share > 2


# Phase retrieval


def test_phase_retrieval_is_numpys_and_deepinvs() -> None:
    x = noise_picture(2, 1, 9, 14)
    y = PhaseRetrieval(2.0)(x)
    expected = np.abs(np.fft.fft2(np.pad(x.numpy(), ((0, 0), (0, 0), (4, 5), (7, 7))), norm="ortho"))
    assert np.abs(y.numpy() - expected).max() < 1e-12

    class Fourier(deepinv.physics.LinearPhysics):
        def A(self, x: Tensor, **_: object) -> Tensor:
            return torch.fft.fft2(torch.nn.functional.pad(x, (7, 7, 4, 5)), norm="ortho")

    assert torch.allclose(y**2, deepinv.physics.PhaseRetrieval(Fourier()).A(x).real)


def test_phase_retrieval_does_not_see_where_the_picture_is() -> None:
    x = torch.zeros(1, 1, 12, 12, dtype=F64)
    x[..., 3:8, 2:9] = noise_picture(1, 1, 5, 7)
    operator = PhaseRetrieval(2.0)
    assert torch.allclose(operator(x), operator(x.roll((2, 1), (-2, -1))))
    assert torch.allclose(operator(x), operator(x.flip(-1, -2)))


def test_coded_diffraction_keeps_all_energy() -> None:
    x = noise_picture(2, 3, 9, 14)
    y = CodedDiffraction(3, 1)(x)
    assert torch.allclose(y.square().sum((3, 4)), x.square().sum((2, 3))[:, :, None].expand(-1, -1, 3))
