"""Guidance nodes: how the model listens to a measurement. Gradient methods, for any damage."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..guidance.dps import DPS, DPSGaussian
from ..guidance.dsg import DSG
from ..guidance.lgd import LGDMC
from ..guidance.mcg import MCG
from ..guidance.mpgd import MPGD
from ..host.run import Guide
from .sockets import Guidance, Measurement

CATEGORY = "posterior/guidance"
JACOBIAN = ["exact", "none"]


def schema(
    node_id: str, display_name: str, description: str, *inputs: io.Input, later: tuple[io.Input, ...] = ()
) -> io.Schema:
    """Every guidance node: a measurement, the method's own inputs, more guidance and a VAE; guidance out.

    Args:
        later: optional inputs that came after workflows had been shared, at the end so that theirs keep their places.
    """
    return io.Schema(
        node_id=node_id,
        display_name=display_name,
        category=CATEGORY,
        description=description,
        inputs=[
            Measurement.Input("measurement", tooltip="What was seen."),
            *inputs,
            Guidance.Input(
                "guidance", optional=True, tooltip="More guidance to listen to as well, from another block."
            ),
            io.Vae.Input(
                "vae", optional=True,
                tooltip="Needed for latent models (SD, SDXL, Flux ...): their own VAE, or its TAESD, which is fast.",
            ),
            *later,
        ],
        outputs=[guidance_output()],
    )  # fmt: skip


def guidance_output() -> io.Output:
    return Guidance.Output(
        "guides", display_name="guidance", tooltip="For a guided sampler, or Apply Guidance to Model."
    )


def chain(make, guidance, vae) -> io.NodeOutput:
    """The earlier blocks and a new one, made outside inference mode, since it may hold tensors of its own."""
    with torch.inference_mode(False):
        return io.NodeOutput((*(guidance or ()), Guide(make(), vae)))


def jacobian_input() -> io.Combo.Input:
    return io.Combo.Input(
        "jacobian", options=JACOBIAN, default="exact",
        tooltip="exact: the gradient goes back through the model, about three times the time of a step. none: it stops "
        "at the model's picture, fast and a little worse. Start with exact.",
    )  # fmt: skip


def strength_input() -> io.Float.Input:
    return io.Float.Input(
        "strength", default=30.0, min=0.0, max=1000.0, step=0.1,
        tooltip="Step size zeta, no unit. Start with 1000 / steps for 256 x 256 pixels, and in proportion to the side for "
        "other sizes. Too large shows as grain or colour, too small as a picture that ignores what was seen.",
    )  # fmt: skip


def seed_input(most: int, what: str) -> io.Int.Input:
    """A seed of the method's own, which the editor must not change with each Run."""
    return io.Int.Input(
        "seed", default=0, min=0, max=most, control_after_generate=False,
        tooltip=f"Chooses {what}. Start with 0.",
    )  # fmt: skip


def deviation_input() -> io.Float.Input:
    return io.Float.Input(
        "deviation", default=1.0, min=0.01, max=10.0, step=0.01,
        tooltip="How much pictures vary: their standard deviation in the model's unit (-1 to 1 for pixel models). 1 is "
        "the paper's, 0.5 is nearer to photos. Start with 1.",
    )  # fmt: skip


class DPSNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorDPS", "DPS (Any Damage)",
            "Diffusion posterior sampling: works for every operator and for latent models. Costs a backward pass in "
            "each step.",
            io.Combo.Input(
                "form", options=["published", "Gaussian"], default="published",
                tooltip="published: a step of fixed length, forgiving. Gaussian: the formula with the noise level, "
                "for studies. Start with published.",
            ),
            io.Float.Input(
                "strength", default=30.0, min=0.0, max=1000.0, step=0.1,
                tooltip="Step size zeta of the published form, no unit: start with 1000 / steps for 256 x 256 pixels, and "
                "in proportion to the side for other sizes. For the Gaussian form a factor: start with 1.",
            ),
            jacobian_input(),
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, form, strength, jacobian="exact", guidance=None, vae=None) -> io.NodeOutput:
        method = DPS if form == "published" else DPSGaussian
        return chain(lambda: method(measurement, strength, jacobian == "exact"), guidance, vae)


class LGDMCNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorLGDMC", "LGD-MC (DPS With Averaging)",
            "DPS whose gradient is averaged over several disturbed copies of the model's picture: steadier where the "
            "damage is far from linear. For any damage with noise.",
            strength_input(),
            io.Int.Input("draws", default=4, min=1, max=64, tooltip="How many copies. Start with 4."),
            deviation_input(),
            seed_input(2**31, "the copies"),
            jacobian_input(),
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, strength, draws, deviation, seed, jacobian, guidance=None, vae=None) -> io.NodeOutput:
        return chain(lambda: LGDMC(measurement, strength, draws, deviation, seed, jacobian == "exact"), guidance, vae)


class MPGDNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorMPGD", "MPGD (Any Damage, Fast)",
            "A gradient step on the model's picture itself, with no pass back through the model: works for every "
            "operator at the cost of plain sampling.",
            io.Float.Input(
                "strength", default=40.0, min=0.0, max=1000.0, step=0.1,
                tooltip="Length of the step, no unit; larger follows the measurement more. Start with 40 for 256 x 256 "
                "pixels, and in proportion to the side for other sizes.",
            ),
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, strength, guidance=None, vae=None) -> io.NodeOutput:
        return chain(lambda: MPGD(measurement, strength), guidance, vae)


class DSGNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorDSG", "DSG (Any Damage, Few Steps)",
            "Turns the sampler's fresh noise towards the measurement: bold steps that never leave the noise level. For "
            "the Guided DDIM Sampler with amount 1.",
            io.Float.Input(
                "rate", default=0.4, min=0.0, max=1.0, step=0.01,
                tooltip="How far the noise turns: 0 not at all, 1 all the way (no unit). Start with 0.4; the paper, with "
                "more steps, with 0.2.",
            ),
            jacobian_input(),
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, rate, jacobian, guidance=None, vae=None) -> io.NodeOutput:
        return chain(lambda: DSG(measurement, rate, jacobian == "exact"), guidance, vae)


class MCGNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "PosteriorMCG", "MCG (Gradient and Projection)",
            "A DPS step and then a hard projection on what was seen. For clean masks and other clean linear damage, in "
            "the Guided DDIM Sampler.",
            strength_input(),
            jacobian_input(),
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, strength, jacobian, guidance=None, vae=None) -> io.NodeOutput:
        return chain(lambda: MCG(measurement, strength, jacobian == "exact"), guidance, vae)


NODES = [DPSNode, LGDMCNode, MPGDNode, DSGNode, MCGNode]
