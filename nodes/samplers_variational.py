"""Sampler nodes: optimisation of a picture, of a Gaussian, of the starting noise; walks that set their own noise."""

from __future__ import annotations

from comfy_api.latest import io

from ..samplers.base import Sampler
from ..samplers.cm4ir import CM4IR
from ..samplers.map_estimate import MAPEstimate
from ..samplers.measured_noise import MeasuredNoise
from ..samplers.noise_space import NoiseSpace
from ..samplers.red_diff import REDDiff
from ..samplers.score_prior import ScorePrior
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
            "rate",
            least=0.001,
            most=1.0,
            step=0.001,
            fine=True,
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


class CM4IRNode(MeasuredSamplerNode):
    METHOD = CM4IR
    HEAD = (
        "PosteriorCM4IR", "CM4IR (Few-Step Models)",
        "Four model calls from the rough inverse on, for few-step models (LCM, Turbo, consistency models). Linear damage, no "
        "gradient. It makes its own start; give few, low SIGMAS.",
    )  # fmt: skip
    SETTINGS = (
        Setting("eta", "Share of fresh noise in a step, 0 to 1 (no unit). Start with 0.1.", 0.0, 1.0, 0.01),
        Setting(
            "zeta", least=0.0, most=1000.0, step=0.1,
            tooltip="How gently the damage is inverted, in units of the noise's variance; more for blur. Start with 1.",
        ),
        Setting(
            "delta", least=0.0, most=10.0, step=0.05,
            tooltip="How much more noise the model is told than there is, as a share: more smooths. Start with 0.",
        ),
    )  # fmt: skip


class ScorePriorNode(MeasuredSamplerNode):
    METHOD = ScorePrior
    HEAD = (
        "PosteriorScorePrior", "Score Prior (Trains a Sampler)",
        "Trains a small network for this one measurement, whose samples then are the posterior's: any number of them at "
        "once. For small pictures, up to 64 x 64, such as digits. Any damage with noise.",
    )  # fmt: skip
    SETTINGS = (
        Setting("iterations", "Training steps. Start with 2000; the paper has 20000.", 1, 1000000),
        Setting("batch", "Pictures in a training step, a model call with its gradient each. Start with 16.", 1, 1024),
        Setting(
            "rate", least=0.00001, most=0.1, step=0.001, fine=True,
            tooltip="Length of a training step (no unit); less where the training does not settle. Start with 0.002.",
        ),
        Setting(
            "couplings", least=0, most=64,
            tooltip="Layers of the network: more can bend the samples' law more. 0 is one spread for each pixel. Start with 8.",
        ),
    )  # fmt: skip


NODES = [
    REDDiffNode, VariationalGaussianNode, MAPEstimateNode, NoiseSpaceNode, MeasuredNoiseNode, CM4IRNode, ScorePriorNode,
]  # fmt: skip
