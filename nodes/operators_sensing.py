"""Operator nodes for cameras that do not take pictures."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..algebra.transforms import TRANSFORMS
from ..operators.phase_retrieval import CodedDiffraction, PhaseRetrieval
from ..operators.sensing import PATTERNS, BlockSensing, Subsampled
from .operator_schema import operator_schema, seed_input


def ratio_input(default: float) -> io.Float.Input:
    return io.Float.Input(
        "ratio", default=default, min=0.001, max=1.0, step=0.01, round=False,
        tooltip=f"Measurements per pixel, 0 to 1; fewer is harder. Start with {default}.",
    )  # fmt: skip


class SensingNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorSensing",
            "Compressed Sensing",
            "A part of the coefficients of a fast transform is measured, as a tomograph measures frequencies.",
            [
                io.Combo.Input(
                    "transform", options=list(TRANSFORMS), default="fourier",
                    tooltip="fourier: frequencies. dct: cosines. hadamard: plus and minus patterns, sides must be powers "
                    "of two. Start with fourier.",
                ),
                ratio_input(0.25),
                io.Combo.Input(
                    "pattern", options=list(PATTERNS), default=PATTERNS[0],
                    tooltip="Which ones. variable density: mostly low frequencies, some of all. low frequencies: only "
                    "those. uniform: any. Start with variable density.",
                ),
                seed_input("which ones are measured"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, transform, ratio, pattern, seed) -> io.NodeOutput:
        return io.NodeOutput(Subsampled(transform, ratio, pattern, seed))


class SinglePixelCameraNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorSinglePixelCamera",
            "Single-Pixel Camera",
            "One light sensor behind a mirror array that shows one Hadamard pattern after the other, coarse ones first. "
            "The picture's sides must be powers of two.",
            [ratio_input(0.1)],
        )

    @classmethod
    def execute(cls, ratio) -> io.NodeOutput:
        return io.NodeOutput(Subsampled("hadamard", ratio, "low frequencies"))


class BlockSensingNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorBlockSensing",
            "Block Sensing (Gaussian)",
            "Each block of pixels is measured by random weighted sums, the textbook form of compressed sensing.",
            [
                ratio_input(0.25),
                io.Int.Input(
                    "block", default=32, min=2, max=64,
                    tooltip="Side of a block, pixels; divides both sides of the picture. Start with 32.",
                ),
                seed_input("the weights"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, ratio, block, seed) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(BlockSensing(ratio, block, seed))


class PhaseRetrievalNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorPhaseRetrieval",
            "Phase Retrieval",
            "Only the strength of each frequency was measured, not its phase, as in X-ray imaging. The picture may come "
            "out moved or turned by 180 degrees. Needs DPS.",
            [
                io.Float.Input(
                    "oversampling", default=2.0, min=1.0, max=8.0, step=0.25,
                    tooltip="Side of the zero-padded picture over the picture's (no unit). Start with 2; less is harder.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, oversampling) -> io.NodeOutput:
        return io.NodeOutput(PhaseRetrieval(oversampling))


class CodedDiffractionNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return operator_schema(
            "PosteriorCodedDiffraction",
            "Coded Diffraction",
            "Phase retrieval behind known random masks, one measurement each; much easier than without. Needs DPS.",
            [
                io.Int.Input("masks", default=4, min=1, max=32, tooltip="How many masks. Start with 4."),
                seed_input("the masks"),
            ],
        )

    @classmethod
    def execute(cls, masks, seed) -> io.NodeOutput:
        return io.NodeOutput(CodedDiffraction(masks, seed))


NODES = [SensingNode, SinglePixelCameraNode, BlockSensingNode, PhaseRetrievalNode, CodedDiffractionNode]
