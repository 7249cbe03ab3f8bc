"""Sampler nodes: Markov chains, whose law tends to the posterior itself, and their kin with a gradient of the model."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..samplers.base import Sampler
from ..samplers.daps import DAPS
from ..samplers.dcps import DCPS
from ..samplers.likelihood_chain import Chain
from ..samplers.mgps import MGPS
from ..samplers.pmc import PMC
from ..samplers.split_gibbs import SplitGibbs
from .schema import MeasuredSamplerNode, Setting

CHAIN = (
    Setting(
        "kernel",
        "How damage without a formula (JPEG, clipping, anything through a VAE) is drawn from. HMC: several leaps, then "
        "taken or not, exact in the long run. MALA: one leap, likewise. Langevin: always taken, a little off. Start with HMC.",
    ),
    Setting("steps", "Gradients of the damage in each turn of that chain; cheap but through a VAE. Start with 20.", 1, 10000, id="gradients"),
)  # fmt: skip


class ChainNode(MeasuredSamplerNode):
    """A sampler that holds a chain; what the chain asks for comes last."""

    @classmethod
    def inputs(cls, later: bool = False) -> list[io.Input]:
        chain = [replace(setting, later=True).input(Chain) for setting in CHAIN] if later else []
        return super().inputs(later) + chain

    @classmethod
    def make(cls, **given) -> Sampler:
        chain = {setting.field: given.pop(setting.name) for setting in CHAIN if setting.name in given}
        return replace(super().make(**given), chain=Chain(**chain))


class SplitGibbsNode(ChainNode):
    METHOD = SplitGibbs
    HEAD = (
        "PosteriorSplitGibbs", "PnP-DM (Split Gibbs Sampler)",
        "Draws the picture from the model and from the measurement in turn, ever closer together: samples whose spread "
        "can be trusted. For any damage with noise. Each step of the sampler takes several model calls.",
    )  # fmt: skip
    SETTINGS = (
        Setting("inner", "Model calls of each draw from the model. Start with 10.", 1, 1000),
        Setting(
            "hold", least=0, most=1000,
            tooltip="Further turns at the last noise level: more forget the start better. Start with 10.",
        ),
    )  # fmt: skip


class DAPSNode(ChainNode):
    METHOD = DAPS
    HEAD = (
        "PosteriorDAPS", "DAPS (Decoupled Annealing)",
        "At each noise level the model's picture is drawn anew given the measurement, then all noise is put back fresh: "
        "early mistakes are forgotten. For any damage, linear or not, and latent models.",
    )  # fmt: skip
    SETTINGS = (
        Setting("inner", "Model calls at each noise level. Start with 5.", 1, 1000),
        Setting(
            "deviation", least=0.01, most=1000.0, step=0.01,
            tooltip="How far a draw may stray from the model's picture at most, as a standard deviation in the model's unit "
            "(-1 to 1 for pixel models). 1000 is the paper's formula. Start with 0.15.",
        ),
        Setting(
            "tau", least=0.0, most=10.0, step=0.001, fine=True,
            tooltip="Noise to assume instead of the measurement's own, 0 to 1 is black to white; 0 takes its own. Published: "
            "0.005, whatever the noise is. Start with 0.",
        ),
    )  # fmt: skip


class PMCNode(MeasuredSamplerNode):
    METHOD = PMC
    HEAD = (
        "PosteriorPMC", "PMC (Plug-and-Play Monte Carlo)",
        "Many small noisy steps of one picture, pulled by the measurement and by the model at falling noise levels. Simple, "
        "proven and slow. For any damage with noise.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "order", "RED: both pulls at the same picture. PnP: the model's after the measurement's. Start with RED."
        ),
        Setting("corrections", "Steps (model calls) at each noise level. Start with 10.", 1, 10000),
        Setting(
            "temper", least=0.0, most=1e6, step=1.0,
            tooltip="How much more the model counts at high noise than it should, in 1 / the square of the model's unit; the "
            "papers have 4444. Start with 100.",
        ),
        Setting(
            "size", id="step_size", least=0.001, most=1.9, step=0.001, fine=True,
            tooltip="Size of a step in units of the sharpest curvature, below 2 (no unit). Smaller is more exact and slower. "
            "Start with 0.3.",
        ),
    )  # fmt: skip


class MGPSNode(MeasuredSamplerNode):
    METHOD = MGPS
    HEAD = (
        "PosteriorMGPS", "MGPS (Midpoint Guidance)",
        "Guides each step at a point halfway to the picture, where the model sees much better, by a small optimisation. "
        "Strong on any damage, latent models too; needs the model's gradient.",
    )  # fmt: skip
    SETTINGS = (
        Setting("iterations", "Steps of the optimisation in each step, a model call with gradient each. Start with 5.", 1, 1000),
        Setting("more", "The same in every tenth step and in the last five. Start with 20.", 1, 1000),
        Setting(
            "rate", least=0.001, most=1.0, step=0.001, fine=True,
            tooltip="How far one of them may move a number, in units of the noise; the paper has 0.03 for 300 steps. Start "
            "with 0.1.",
        ),
        Setting(
            "middle", least=0.0, most=1.0, step=0.01,
            tooltip="Where the point lies, as a share of the way up from the picture: 1 is the end of the step. Start with "
            "0.5.",
        ),
    )  # fmt: skip


class DCPSNode(MeasuredSamplerNode):
    METHOD = DCPS
    HEAD = (
        "PosteriorDCPS", "DCPS (Divide and Conquer)",
        "Cuts the way from noise to the picture into blocks with simpler goals, and fits each step to its goal. For any "
        "damage; needs the model's gradient.",
    )  # fmt: skip
    SETTINGS = (
        Setting("blocks", "How many. Start with 3.", 1, 100),
        Setting("iterations", "Steps of the fit in each step, a model call with gradient each. Start with 2.", 1, 1000),
        Setting(
            "rate", least=0.001, most=100.0, step=0.001, fine=True,
            tooltip="Length of one of them over the whole picture (in units of the noise): larger for larger pictures. Start "
            "with 1.5.",
        ),
        Setting("langevin", "Noisy steps at the start of each block, a model call with gradient each. Start with 5.", 0, 1000),
    )  # fmt: skip


NODES = [SplitGibbsNode, DAPSNode, PMCNode, MGPSNode, DCPSNode]
