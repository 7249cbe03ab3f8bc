"""Every operator once: what the parametrised tests run over. A new operator adds its row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from posterior.operators import kernels
from posterior.operators.base import Operator
from posterior.operators.compose import compose
from posterior.operators.convolution import CircularConvolution, Mirror, convolution
from posterior.operators.crop import Crop
from posterior.operators.dense import Dense
from posterior.operators.diagonal import Weight
from posterior.operators.dither import ErrorDiffusion
from posterior.operators.downscale import Resize, downscale
from posterior.operators.grayscale import Grayscale
from posterior.operators.identity import Identity, Scale
from posterior.operators.inpainting import Inpainting, Mosaic, RandomPixels
from posterior.operators.jpeg import JPEG
from posterior.operators.levels import Levels
from posterior.operators.phase_retrieval import CodedDiffraction, PhaseRetrieval
from posterior.operators.pointwise import Gamma, Palette, Quantisation, Saturation
from posterior.operators.sensing import BlockSensing, Subsampled
from posterior.operators.stack import stack
from posterior.operators.varying_blur import VaryingBlur


@dataclass(frozen=True)
class Row:
    """One operator.

    Args:
        name: of the test.
        make: makes it.
        image: (C, H, W) of the pictures it is tested on, small, odd and not square where it may be.
        exact: whether its inverses are closed forms; else conjugate gradients, right to their tolerance.
        repeats: whether A(A^+(A(x))) = A(x) exactly (JPEG: up to 8-bit rounding).
    """

    name: str
    make: Callable[[], Operator]
    image: tuple[int, int, int] = (3, 7, 10)
    exact: bool = True
    repeats: bool = True

    def __str__(self) -> str:
        return self.name


def hole(*shape: int) -> torch.Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(5)) < 0.4).float()


def dot(h: int = 7, w: int = 10) -> torch.Tensor:
    mask = torch.zeros(1, 1, h, w)
    mask[..., 2, 3] = 1
    return mask


def weight(*shape: int) -> torch.Tensor:
    return 0.2 + torch.rand(shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def random_kernel(*shape: int) -> torch.Tensor:
    kernel = torch.rand(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return kernel / kernel.sum((-2, -1), keepdim=True)


LINEAR = [
    Row("identity", Identity),
    Row("scale", lambda: Scale(0.3)),
    Row("levels", lambda: Levels(torch.tensor([0.3, 0.7, 1.2]), 0.1)),
    Row("a blur each", lambda: CircularConvolution(random_kernel(2, 1, 3, 3))),
    Row("inpainting", lambda: Inpainting(hole(1, 1, 7, 10))),
    Row("inpainting, a mask each", lambda: Inpainting(hole(2, 1, 7, 10))),
    Row("random pixels", lambda: RandomPixels(0.6, 3)),
    Row("outpainting", lambda: Crop(1, 0, 3, 2)),
    Row("mosaic", lambda: Mosaic("GRBG")),
    Row("circular blur", lambda: CircularConvolution(random_kernel(1, 1, 5, 3))),
    Row("circular blur, a kernel per colour", lambda: CircularConvolution(random_kernel(1, 3, 3, 5))),
    Row("mirrored symmetric blur", lambda: convolution(kernels.gaussian(0.6).double(), "reflect")),
    Row("mirrored motion blur", lambda: convolution(kernels.motion(4, 30).double(), "reflect"), exact=False),
    Row("valid blur", lambda: convolution(random_kernel(1, 1, 3, 5), "valid"), exact=False),
    Row("mirror", lambda: Mirror(2, 3), exact=False),
    Row("varying blur", lambda: VaryingBlur(random_kernel(6, 1, 3, 5), 3), exact=False),
    Row("hole before a blur", lambda: compose(convolution(kernels.gaussian(0.4).double()), Inpainting(dot())),
        exact=False),
    Row("hole before a box downscale", lambda: compose(downscale(3, "box"), Inpainting(dot(6, 9))), (3, 6, 9)),
    Row("error diffusion", lambda: ErrorDiffusion(0.2)),
    Row("box downscale", lambda: downscale(3, "box"), (3, 6, 9)),
    Row("bicubic downscale", lambda: downscale(2, "bicubic"), (3, 6, 10)),
    Row("lanczos downscale", lambda: downscale(3, "lanczos"), (3, 9, 12)),
    Row("gaussian downscale", lambda: downscale(2, "gaussian"), (1, 6, 10)),
    Row("resize", lambda: Resize((7, 10), (5, 4))),
    Row("grayscale", Grayscale),
    Row("hadamard sensing", lambda: Subsampled("hadamard", 0.4, "variable density", 1), (3, 4, 8)),
    Row("dct sensing", lambda: Subsampled("dct", 0.4, "low frequencies", 1)),
    Row("fourier sensing", lambda: Subsampled("fourier", 0.4, "uniform", 1)),
    Row("block sensing", lambda: BlockSensing(0.6, 4, 1), (2, 8, 12)),
    Row("matrix", lambda: Dense(random_kernel(1, 1, 40, 70)[0, 0] * 70, (1, 7, 10)), (1, 7, 10)),
    Row("weighted crop", lambda: compose(Weight(weight(2, 1, 5, 6)), Crop(1, 0, 3, 2))),
    Row("masked downscale", lambda: compose(Inpainting(hole(1, 1, 2, 3)), downscale(3, "box")), (3, 6, 9)),
    Row("scaled blur", lambda: compose(Scale(0.3), CircularConvolution(random_kernel(1, 1, 3, 3)))),
    Row("weighted blur", lambda: compose(Weight(weight(1, 3, 7, 10)), CircularConvolution(random_kernel(1, 1, 3, 3))),
        exact=False),
    Row("masked blur", lambda: compose(RandomPixels(0.5), CircularConvolution(random_kernel(1, 1, 3, 3))), exact=False),
    Row("stack", lambda: stack([Grayscale(), Scale(0.5), Crop(2, 1, 0, 0)], [(1, 7, 10), (3, 7, 10), (3, 6, 8)]),
        exact=False),
]  # fmt: skip

NONLINEAR = [
    Row("phase retrieval", lambda: PhaseRetrieval(1.5)),
    Row("coded diffraction", lambda: CodedDiffraction(2, 1)),
    Row("jpeg", lambda: JPEG(40), (3, 19, 21), repeats=False),
    Row("jpeg without subsampling", lambda: JPEG(80, "4:4:4"), (3, 19, 21), repeats=False),
    Row("jpeg of a camera", lambda: JPEG(50, "4:2:2", [range(3, 67)], (3, 5), 6), (3, 19, 21), repeats=False),
    Row("overexposure", lambda: Saturation(2.0)),
    Row("contrast", lambda: Saturation(2.0, 0.5)),
    Row("gamma", lambda: Gamma(2.2)),
    Row("quantisation", lambda: Quantisation(5)),
    Row("ordered dither", lambda: Quantisation(3, "ordered")),
    Row("random dither", lambda: Quantisation(3, "random", 1)),
    Row("palette", lambda: Palette(weight(6, 3) - 0.2)),
    Row("overexposed blur", lambda: compose(Saturation(1.5), CircularConvolution(random_kernel(1, 1, 3, 3)))),
    Row("two exposures", lambda: stack([Saturation(2.0), Saturation(0.5)], [(3, 7, 10)] * 2)),
]

ROWS = LINEAR + NONLINEAR
