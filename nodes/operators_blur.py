"""Operator nodes for blur."""

from __future__ import annotations

import math

import torch
from comfy_api.latest import io

from ..algebra.refusal import Refusal
from ..operators.convolution import convolution
from ..operators.families import DiskRadius, FreeKernel, GaussianWidth, Motion
from ..operators.family import told
from ..operators.kernels import camera_shake, disk, from_picture, gaussian, motion
from ..operators.varying_blur import VaryingBlur
from .operator_schema import boundary_input, estimate_input, operator_schema, seed_input
from .sockets import planes


def side(reach: float) -> int:
    """Side of a kernel that reaches so many pixels from its centre."""
    return 2 * math.ceil(reach) + 1


class GaussianBlurNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorGaussianBlur",
            "Gaussian Blur (Deblur, Sharpen)",
            "The picture is out of focus in a soft, even way.",
            [
                io.Float.Input(
                    "sigma", default=2.0, min=0.1, max=50.0, step=0.1,
                    tooltip="Radius of the blur (standard deviation) in pixels. Start with 2; too large gives ringing.",
                ),
                boundary_input(optional=True),
                estimate_input(),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, sigma, boundary="reflect", estimate=False) -> io.NodeOutput:
        family = GaussianWidth(side(7.5 * sigma), boundary, sigma)
        with torch.inference_mode(False):
            return io.NodeOutput(told(convolution(gaussian(sigma), boundary), family, estimate))


class MotionBlurNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorMotionBlur",
            "Motion Blur",
            "The camera or the subject moved along a straight line while the shutter was open.",
            [
                io.Float.Input(
                    "length", default=15.0, min=1.0, max=200.0, step=0.5,
                    tooltip="How far it moved, pixels. Start with 15, or measure a smeared point of light.",
                ),
                io.Float.Input(
                    "angle", default=0.0, min=-180.0, max=180.0, step=1.0,
                    tooltip="Direction in degrees: 0 is horizontal, 90 vertical, anticlockwise. Start with 0.",
                ),
                boundary_input(),
                estimate_input(),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, length, angle, boundary, estimate=False) -> io.NodeOutput:
        family = Motion(side(1.25 * length + 1), boundary, length, angle)
        with torch.inference_mode(False):
            return io.NodeOutput(told(convolution(motion(length, angle), boundary), family, estimate))


class CameraShakeNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorCameraShake",
            "Camera Shake",
            "A hand that trembles draws a random path. For studies; for a real photo give the path as a Kernel Blur.",
            [
                io.Float.Input(
                    "size", default=8.0, min=1.0, max=100.0, step=0.5,
                    tooltip="How far the path goes from its centre, pixels. Start with 8.",
                ),
                seed_input("the path"),
                boundary_input(),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, size, seed, boundary) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(convolution(camera_shake(size, seed), boundary))


class DefocusNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorDefocus",
            "Defocus (Lens Disk)",
            "The lens was out of focus: each point became an even disk, as bright spots in the background show.",
            [
                io.Float.Input(
                    "radius", default=3.0, min=0.5, max=100.0, step=0.1,
                    tooltip="Radius of the disk, pixels. Start with 3, or measure a bright spot.",
                ),
                boundary_input(),
                estimate_input(),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, radius, boundary, estimate=False) -> io.NodeOutput:
        family = DiskRadius(side(2.5 * radius + 1), boundary, radius)
        with torch.inference_mode(False):
            return io.NodeOutput(told(convolution(disk(radius), boundary), family, estimate))


class KernelBlurNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorKernelBlur",
            "Kernel Blur (From Picture)",
            "A blur whose kernel is a picture: what became of a single point of light.",
            [
                io.Image.Input(
                    "kernel", tooltip="A small picture with odd sides, black where no light went. Its sum is set to 1."
                ),
                boundary_input(),
                estimate_input(),
            ],
        )

    @classmethod
    def execute(cls, kernel, boundary, estimate=False) -> io.NodeOutput:
        with torch.inference_mode(False):
            kernel = from_picture(planes(kernel, bounded=False))
            if kernel.shape[0] != 1:
                raise Refusal(f"There are {kernel.shape[0]} kernels; give one, or use Varying Blur.")
            family = FreeKernel(max(kernel.shape[-2:]), boundary)
            return io.NodeOutput(told(convolution(kernel, boundary), family, estimate))


class VaryingBlurNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorVaryingBlur",
            "Varying Blur (Kernel Grid)",
            "A blur that changes over the picture, as lenses blur their corners: kernels on a grid, blended in between.",
            [
                io.Image.Input(
                    "kernels", tooltip="A batch of kernel pictures with odd sides, from the top left, row by row."
                ),
                io.Int.Input(
                    "columns", default=3, min=1, max=64,
                    tooltip="How many kernels there are in a row of the grid. Start with 3 (nine kernels).",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, kernels, columns) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(VaryingBlur(from_picture(planes(kernels, bounded=False)), columns))


NODES = [GaussianBlurNode, MotionBlurNode, CameraShakeNode, DefocusNode, KernelBlurNode, VaryingBlurNode]
