"""Guidance nodes: how the model listens to a measurement. Gradient methods, for any damage."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.dps import DPS, DPSGaussian
from ..guidance.dsg import DSG
from ..guidance.lgd import LGDMC
from ..guidance.mcg import MCG
from ..guidance.mpgd import MPGD
from .schema import GuidanceNode, Setting, guidance_schema

JACOBIAN = Setting(
    "jacobian", words=("exact", "none"),
    tooltip="exact: the gradient goes back through the model, about three times the time of a step. none: it stops "
    "at the model's picture, fast and a little worse. Start with exact.",
)  # fmt: skip
STRENGTH = Setting(
    "zeta", id="strength", start=30.0, least=0.0, most=1000.0, step=0.1,
    tooltip="Step size zeta, no unit. Start with 1000 / steps for 256 x 256 pixels, and in proportion to the side for "
    "other sizes. Too large shows as grain or colour, too small as a picture that ignores what was seen.",
)  # fmt: skip
DEVIATION = Setting(
    "deviation", least=0.01, most=10.0, step=0.01,
    tooltip="How much pictures vary: their standard deviation in the model's unit (-1 to 1 for pixel models). 1 is "
    "the paper's, 0.5 is nearer to photos. Start with 1.",
)  # fmt: skip


class DPSNode(GuidanceNode):
    METHOD = DPS
    HEAD = (
        "PosteriorDPS", "DPS (Any Damage)",
        "Diffusion posterior sampling: works for every operator and for latent models. Costs a backward pass in "
        "each step.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "zeta", id="strength", start=30.0, least=0.0, most=1000.0, step=0.1,
            tooltip="Step size zeta of the published form, no unit: start with 1000 / steps for 256 x 256 pixels, and "
            "in proportion to the side for other sizes. For the Gaussian form a factor: start with 1.",
        ),
        JACOBIAN,
    )  # fmt: skip

    @classmethod
    def define_schema(cls) -> io.Schema:
        form = io.Combo.Input(
            "form", options=["published", "Gaussian"], default="published",
            tooltip="published: a step of fixed length, forgiving. Gaussian: the formula with the noise level, "
            "for studies. Start with published.",
        )  # fmt: skip
        return guidance_schema(*cls.HEAD, form, *cls.inputs())

    @classmethod
    def make(cls, measurement, form, strength, jacobian="exact"):
        return (DPS if form == "published" else DPSGaussian)(measurement, strength, JACOBIAN.value(jacobian))


class LGDMCNode(GuidanceNode):
    METHOD = LGDMC
    HEAD = (
        "PosteriorLGDMC", "LGD-MC (DPS With Averaging)",
        "DPS whose gradient is averaged over several disturbed copies of the model's picture: steadier where the "
        "damage is far from linear. For any damage with noise.",
    )  # fmt: skip
    SETTINGS = (
        STRENGTH,
        Setting("draws", "How many copies. Start with 4.", 1, 64),
        DEVIATION,
        Setting("seed", "Chooses the copies. Start with 0.", 0, 2**31, fixed=True),
        JACOBIAN,
    )


class MPGDNode(GuidanceNode):
    METHOD = MPGD
    HEAD = (
        "PosteriorMPGD", "MPGD (Any Damage, Fast)",
        "A gradient step on the model's picture itself, with no pass back through the model: works for every "
        "operator at the cost of plain sampling.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "zeta", id="strength", start=40.0, least=0.0, most=1000.0, step=0.1,
            tooltip="Length of the step, no unit; larger follows the measurement more. Start with 40 for 256 x 256 "
            "pixels, and in proportion to the side for other sizes.",
        ),
    )  # fmt: skip


class DSGNode(GuidanceNode):
    METHOD = DSG
    HEAD = (
        "PosteriorDSG", "DSG (Any Damage, Few Steps)",
        "Turns the sampler's fresh noise towards the measurement: bold steps that never leave the noise level. For "
        "the Guided DDIM Sampler with amount 1.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "guidance_rate", id="rate", start=0.4, least=0.0, most=1.0, step=0.01,
            tooltip="How far the noise turns: 0 not at all, 1 all the way (no unit). Start with 0.4; the paper, with "
            "more steps, with 0.2.",
        ),
        JACOBIAN,
    )  # fmt: skip


class MCGNode(GuidanceNode):
    METHOD = MCG
    HEAD = (
        "PosteriorMCG", "MCG (Gradient and Projection)",
        "A DPS step and then a hard projection on what was seen. For clean masks and other clean linear damage, in "
        "the Guided DDIM Sampler.",
    )  # fmt: skip
    SETTINGS = (STRENGTH, JACOBIAN)


NODES = [DPSNode, LGDMCNode, MPGDNode, DSGNode, MCGNode]
