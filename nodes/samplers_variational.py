"""Sampler nodes: the posterior as an optimisation, of a picture, of a Gaussian, of the starting noise."""

from __future__ import annotations

from comfy_api.latest import io

from ..samplers.base import Sampler
from ..samplers.map_estimate import MAPEstimate
from ..samplers.measured_noise import MeasuredNoise
from ..samplers.noise_space import NoiseSpace
from ..samplers.red_diff import REDDiff
from ..samplers.variational import VariationalGaussian
from .schema import MeasuredSamplerNode, SamplerNode, Setting

#: published methods as settings of the noise-space sampler; the number of SIGMAS is theirs too, see the help
NOISE_SPACE = {
    "DMPlug": NoiseSpace(iterations=5000, rate=0.01),
    "SHRED": NoiseSpace(iterations=500, rate=0.01),
    "D-Flow": NoiseSpace(iterations=400, rate=0.02, prior=0.01),
    "FMPlug": NoiseSpace(iterations=1000, rate=0.02, shell=0.01),
    "Consistent-CSGM": NoiseSpace(iterations=300, rate=0.02, prior=0.01),
}


class REDDiffNode(MeasuredSamplerNode):
    METHOD = REDDiff
    HEAD = (
        "PosteriorREDDiff", "RED-diff (Optimised Picture)",
        "Moves one picture towards what was seen and what the model finds natural, at all noise levels in turn. Any "
        "damage, latent models too, no gradient through the model. One picture, much the same for each seed.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "prior", least=0.0, most=100.0, step=0.01,
            tooltip="How much the model weighs against the measurement (lambda, no unit): larger is smoother. Start with "
            "0.25.",
        ),
        Setting(
            "rate", least=0.001, most=1.0, step=0.001, fine=True,
            tooltip="How far a number of the picture may move in one step, -1 to 1 is black to white. Start with 0.1; less "
            "with many steps.",
        ),
        Setting(
            "likelihood",
            "sum: the weight means the same for every damage. mean: as in the published code. Start with sum.",
        ),
    )  # fmt: skip


class VariationalGaussianNode(MeasuredSamplerNode):
    METHOD = VariationalGaussian
    HEAD = (
        "PosteriorVariationalGaussian", "Variational Gaussian",
        "Fits a mean and a spread for each pixel to the posterior: a faithful picture, and how sure each pixel is. Any "
        "damage with noise, no gradient through the model.",
    )  # fmt: skip
    SETTINGS = (
        Setting("inner", "Steps (model calls) at each noise level. Start with 10.", 1, 1000),
        Setting("hold", "Further steps at the last level, ever smaller. Start with 100.", 0, 10000),
        Setting(
            "rate", least=0.001, most=1.0, step=0.001, fine=True,
            tooltip="How far a number may move in one step, -1 to 1 is black to white. Start with 0.05.",
        ),
        Setting("answer", "mean: the fitted mean. sample: a draw around it. Start with mean."),
    )


class MAPEstimateNode(MeasuredSamplerNode):
    METHOD = MAPEstimate
    HEAD = (
        "PosteriorMAPEstimate", "MAP Estimate (Most Likely Picture)",
        "Climbs to the picture that is most likely under model and measurement together, at falling noise levels. One "
        "picture; any damage. It may be too smooth or too sharp: the mean of samples is safer.",
    )  # fmt: skip
    SETTINGS = (
        Setting("inner", "Steps (model calls) at each noise level. Start with 3.", 1, 1000),
        Setting("step", "Length of a step, 1 is the whole way to the model's picture. Start with 0.5.", 0.01, 1.0, 0.01),
        Setting(
            "stop", least=0.0, most=10.0, step=0.05,
            tooltip="Residual at which it rests, in units of the noise, so that the noise is not fitted; 0 never. Start "
            "with 1.",
        ),
    )  # fmt: skip


class NoiseSpaceNode(MeasuredSamplerNode):
    METHOD = NoiseSpace
    HEAD = (
        "PosteriorNoiseSpace", "Noise-Space Inversion (DMPlug, D-Flow ...)",
        "Searches the starting noise whose picture explains what was seen: the result is always a picture that the "
        "model can make. Any damage. Few SIGMAS (1 to 10), many iterations, each with a gradient through the model.",
    )  # fmt: skip
    SETTINGS = (
        Setting("iterations", "Steps of the search at most; it stops when the noise is reached. Start with 200.", 1, 100000),
        Setting("rate", "Length of a step, in units of the noise. Start with 0.02.", 0.0001, 1.0, 0.001, fine=True),
        Setting(
            "prior", least=0.0, most=10.0, step=0.001, fine=True,
            tooltip="Pull of the noise to what noise is like (no unit): 0 none, 1 the most likely picture. Start with 0.",
        ),
        Setting(
            "shell", least=0.0, most=1.0, step=0.01,
            tooltip="How far the noise's length may leave what is usual, as a share; 0 for any length. Start with 0.",
        ),
        Setting(
            "stop", least=0.0, most=10.0, step=0.05,
            tooltip="Residual at which a sample is done, in units of the measurement's noise; 0 never. Start with 1.",
        ),
    )  # fmt: skip

    @classmethod
    def inputs(cls, later: bool = False) -> list[io.Input]:
        if later:
            return []
        preset = io.Combo.Input(
            "preset", options=["as set here", *NOISE_SPACE], default="as set here",
            tooltip="The settings of a published method instead of those below; take as many SIGMAS as its help says. "
            "Start with as set here.",
        )  # fmt: skip
        return [preset, *super().inputs()]

    @classmethod
    def make(cls, preset, **given) -> Sampler:
        return NOISE_SPACE.get(preset) or super().make(**given)


class MeasuredNoiseNode(SamplerNode):
    METHOD = MeasuredNoise
    HEAD = (
        "PosteriorMeasuredNoise", "Measured-Noise Sampler (Kadkhodaie-Simoncelli)",
        "Has no schedule: measures at each step how noisy the picture still is, and takes a share of that off. For DDNM "
        "and other guidance that works on the model's picture.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "step", least=0.001, most=1.0, step=0.001, fine=True,
            tooltip="Share of the noise that the first step takes off; later ones take more. Start with 0.05; the paper's "
            "0.01 is slower and better.",
        ),
        Setting(
            "beta", least=0.01, most=1.0, step=0.01,
            tooltip="1 adds no noise and gives one smooth picture, less gives samples (no unit). Start with 0.1.",
        ),
        Setting("limit", "Model calls for a picture at most. Start with 500.", 10, 100000),
    )  # fmt: skip


NODES = [REDDiffNode, VariationalGaussianNode, MAPEstimateNode, NoiseSpaceNode, MeasuredNoiseNode]
