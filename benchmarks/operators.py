"""Time of forward + adjoint (nonlinear: forward + J^T v) of every operator, 3 x 512 x 512, float32.

Beside one FFT round trip of the same picture, beside deepinv's counterpart in the same run where it has one, and over
the number of pixels: `slope` is the exponent, 1 is linear. One thread and its processor time, the least of several
runs, ours, the FFT and deepinv's in turn, so that a busy machine does not matter.

    python dev.py bench operators [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from ..algebra.krylov import conjugate_gradient
from ..diffusion.level import Level
from ..diffusion.state import State
from ..guidance.diffpir import PHOTOS, DiffPIR
from ..guidance.dps import DPS
from ..measurement.measurement import Measurement
from ..measurement.noise import GaussianNoise
from ..operators import base, kernels
from ..operators.base import Operator
from ..operators.compose import compose
from ..operators.convolution import CircularConvolution, convolution
from ..operators.crop import Crop
from ..operators.downscale import Resize, downscale
from ..operators.grayscale import Grayscale
from ..operators.identity import Identity, Scale
from ..operators.inpainting import Inpainting, Mosaic, RandomPixels
from ..operators.jpeg import JPEG
from ..operators.phase_retrieval import CodedDiffraction, PhaseRetrieval
from ..operators.pointwise import Gamma, Palette, Quantisation, Saturation
from ..operators.sensing import BlockSensing, Subsampled
from ..operators.varying_blur import VaryingBlur
from ..tools.device import FakeDevice

GAUSSIAN, MOTION = kernels.gaussian(2.0), kernels.motion(15, 30)
BANK = kernels.from_picture(torch.rand(9, 1, 11, 11, generator=torch.Generator().manual_seed(0)))
SIZES = (128, 256, 512, 1024)


def hole(n: int) -> Tensor:
    return (torch.rand(1, 1, n, n, generator=torch.Generator().manual_seed(0)) < 0.4).float()


#: name to the operator for a side of n pixels
OURS: dict[str, Callable[[int], Operator]] = {
    "identity": lambda n: Identity(),
    "scale": lambda n: Scale(0.5),
    "inpainting": lambda n: Inpainting(hole(n)),
    "random pixels": lambda n: RandomPixels(0.6),
    "outpainting": lambda n: Crop(n // 8, n // 8, n // 8, n // 8),
    "mosaic": lambda n: Mosaic(),
    "gaussian blur, circular": lambda n: CircularConvolution(GAUSSIAN),
    "gaussian blur, reflect": lambda n: convolution(GAUSSIAN, "reflect"),
    "motion blur, reflect": lambda n: convolution(MOTION, "reflect"),
    "motion blur, valid": lambda n: convolution(MOTION, "valid"),
    "varying blur, 9 kernels": lambda n: VaryingBlur(BANK, 3),
    "downscale 4, box": lambda n: downscale(4, "box"),
    "downscale 4, bicubic": lambda n: downscale(4, "bicubic"),
    "downscale 4, lanczos": lambda n: downscale(4, "lanczos"),
    "resize to 0.4, bicubic": lambda n: Resize((n, n), (2 * n // 5, 2 * n // 5)),
    "grayscale": lambda n: Grayscale(),
    "sensing, hadamard": lambda n: Subsampled("hadamard", 0.25),
    "sensing, dct": lambda n: Subsampled("dct", 0.25),
    "sensing, fourier": lambda n: Subsampled("fourier", 0.25),
    "block sensing 16": lambda n: BlockSensing(0.25, 16),
    "masked blur": lambda n: compose(Inpainting(hole(n)), CircularConvolution(GAUSSIAN)),
    "phase retrieval 2": lambda n: PhaseRetrieval(2.0),
    "coded diffraction 4": lambda n: CodedDiffraction(4),
    "jpeg 4:2:0": lambda n: JPEG(30),
    "overexposure": lambda n: Saturation(2.0),
    "gamma": lambda n: Gamma(2.2),
    "palette 16": lambda n: Palette(torch.rand(16, 3, generator=torch.Generator().manual_seed(0))),
    "fewer colours": lambda n: Quantisation(4, "ordered"),
}


class Counted(NamedTuple):
    """What a step adds on a card."""

    kernels: int
    waits: int


def guided_step(operator: Operator, n: int = 512, smooth: bool = False) -> Counted:
    """Operations and waits of one guided step at 3 x n x n, beside the model's own.

    The backward pass of an operator that is not linear is counted on a CPU, where it has the same operations.

    Args:
        smooth: with the correction continued into what was not measured.
    """

    def step(device: FakeDevice) -> Counted:
        moved, x = operator.to(device.device, torch.float32), torch.rand(1, 3, n, n, device=device.device)
        measurement = Measurement(moved, moved.forward(x), GaussianNoise(0.02))
        block = DiffPIR(measurement, 1.0, PHOTOS, smooth) if operator.linear else DPS(measurement)
        for _ in range(2):
            device.clear()
            if operator.linear or device.device.type == "cpu":
                block.estimate(State(x, Level(1.0, 0.5), x, lambda v, last: v), x)
            else:
                measurement.residual(x)
        return Counted(device.kernels.total(), device.waits.total())

    with FakeDevice() as card, patch.object(base, "conjugate_gradient", partial(conjugate_gradient, iterations=16)):
        counted = step(card)
    if operator.linear:
        return counted
    with FakeDevice("cpu") as processor:
        return Counted(step(processor).kernels, counted.waits)


def deepinv_physics():
    """deepinv's operators, where it is installed."""
    try:
        import deepinv.physics
    except ImportError:
        return None
    return deepinv.physics


def counterparts(theirs, n: int, x: Tensor) -> dict[str, object]:
    """deepinv's operators for the same rows."""
    if theirs is None:
        return {}
    shape = (3, n, n)
    weights = VaryingBlur(BANK, 3)._weights(x)[None, None]

    class PaddedFourier(theirs.LinearPhysics):
        def A(self, x: Tensor, **_: object) -> Tensor:
            return torch.fft.fft2(torch.nn.functional.pad(x, (n // 2,) * 4), norm="ortho")

        def A_adjoint(self, y: Tensor, **_: object) -> Tensor:
            return torch.fft.ifft2(y, norm="ortho").real[..., n // 2 : -(n // 2), n // 2 : -(n // 2)]

    mask = 1 - hole(n)[0].expand(3, -1, -1)
    return {
        "identity": theirs.Denoising(),
        "inpainting": theirs.Inpainting(shape, mask=mask),
        "random pixels": theirs.Inpainting(shape, mask=0.4),
        "mosaic": theirs.Demosaicing(shape),
        "gaussian blur, circular": theirs.BlurFFT(shape, GAUSSIAN),
        "gaussian blur, reflect": theirs.Blur(GAUSSIAN, padding="reflect"),
        "motion blur, reflect": theirs.Blur(MOTION, padding="reflect"),
        "motion blur, valid": theirs.Blur(MOTION, padding="valid"),
        "varying blur, 9 kernels": theirs.SpaceVaryingBlur(
            BANK[None, None, :, 0], weights, padding="circular", use_fft=True
        ),
        "downscale 4, box": theirs.Downsampling(shape, torch.ones(1, 1, 4, 4) / 16, 4, padding="valid"),
        "downscale 4, bicubic": theirs.DownsamplingMatlab(4),
        "grayscale": theirs.Decolorize(),
        "sensing, hadamard": theirs.SinglePixelCamera(n * n // 4, shape, fast=True),
        "phase retrieval 2": theirs.PhaseRetrieval(PaddedFourier()),
    }


def both_ways(operator: Operator, x: Tensor) -> Callable[[], Tensor]:
    v = torch.ones_like(operator(x))
    if operator.linear:
        return lambda: operator.adjoint(operator(x))

    def forward_and_pull_back() -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(operator(leaf), leaf, v)[0]

    return forward_and_pull_back


def their_ways(theirs, physics: object, x: Tensor) -> Callable[[], Tensor]:
    y = physics.A(x)
    if isinstance(physics, theirs.LinearPhysics):
        return lambda: physics.A_adjoint(physics.A(x))

    def forward_and_pull_back() -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(physics.A(leaf), leaf, torch.ones_like(y))[0]

    return forward_and_pull_back


def least(works: list[Callable[[], object] | None], repeats: int) -> list[float]:
    """The least time of each in milliseconds, taken in turn; after one run that fills the caches."""
    best = [math.inf] * len(works)
    for turn in range(repeats + 1):
        for i, work in enumerate(works):
            if work is not None:
                start = time.process_time()
                work()
                spent = 1e3 * (time.process_time() - start)
                best[i] = min(best[i], spent if turn else math.inf)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats, sizes 128 to 512")
    quick = parser.parse_args().quick
    sizes, repeats = (SIZES[:3], 5) if quick else (SIZES, 20)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pictures = {n: torch.rand(1, 3, n, n) for n in sizes}
    x = pictures[512]
    theirs = deepinv_physics()
    others = counterparts(theirs, 512, x)
    rows = []
    for name, make in OURS.items():
        works = [both_ways(make(512), x), lambda: torch.fft.irfft2(torch.fft.rfft2(x))]
        works.append(their_ways(theirs, others[name], x) if name in others else None)
        ours, fft, their = least(works, repeats)
        times = least([both_ways(make(n), pictures[n]) for n in sizes], repeats)
        logs = torch.tensor([[math.log(n * n), math.log(t)] for n, t in zip(sizes, times, strict=True)])
        centred = logs - logs.mean(0)
        slope = (centred[:, 0] @ centred[:, 1] / centred[:, 0].square().sum()).item()
        rows.append(
            {
                "operator": name,
                "ms": round(ours, 3),
                "ratio_fft": round(ours / fft, 3),
                "ratio_deepinv": round(ours / their, 3) if name in others else None,
                "slope": round(slope, 2),
                **guided_step(make(512))._asdict(),
            }
        )
        print(
            "{operator:28} {ms:9} ms {ratio_fft:8} FFT, deepinv {ratio_deepinv}, slope {slope}; on a card "
            "{kernels} kernels, {waits} waits a step".format(**rows[-1])
        )
    print(json.dumps({"benchmark": "operators", "image": [3, 512, 512], "quick": quick, "rows": rows}))


if __name__ == "__main__":
    main()
