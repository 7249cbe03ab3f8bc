"""Guidance nodes: how the model listens to a measurement."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..guidance.ddnm import DDNM
from ..guidance.diffpir import DiffPIR
from ..guidance.dps import DPS, DPSGaussian
from ..host.run import Guide
from .sockets import Guidance, Measurement

CATEGORY = "posterior/guidance"


def common_inputs() -> list[io.Input]:
    """What every guidance node ends with."""
    return [
        Guidance.Input("guidance", optional=True, tooltip="More guidance to listen to as well, from another block."),
        io.Vae.Input("vae", optional=True, tooltip="Needed for latent models (SD, SDXL, Flux ...): their own VAE."),
    ]


def guidance_output() -> io.Output:
    return Guidance.Output("guides", display_name="guidance", tooltip="For a guided sampler, or Apply Guidance to Model.")


def chain(block, guidance, vae) -> io.NodeOutput:
    return io.NodeOutput((*(guidance or ()), Guide(block, vae)))


class DPSNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorDPS",
            display_name="DPS (Any Damage)",
            category=CATEGORY,
            description="Diffusion posterior sampling: works for every operator and for latent models. Costs a backward "
            "pass in each step.",
            inputs=[
                Measurement.Input("measurement", tooltip="What was seen."),
                io.Combo.Input(
                    "form", options=["published", "Gaussian"], default="published",
                    tooltip="published: a step of fixed length, forgiving. Gaussian: the formula with the noise level, "
                    "for studies. Start with published.",
                ),
                io.Float.Input(
                    "strength", default=10.0, min=0.0, max=1000.0, step=0.1,
                    tooltip="Step size zeta of the published form (the paper's 1 is for 1000 steps; for n steps start "
                    "with 1000 / n), or a factor on the Gaussian form (start with 1). No unit.",
                ),
                *common_inputs(),
            ],
            outputs=[guidance_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, form, strength, guidance=None, vae=None) -> io.NodeOutput:
        with torch.inference_mode(False):
            block = DPS(measurement, strength) if form == "published" else DPSGaussian(measurement, strength)
        return chain(block, guidance, vae)


class DDNMNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorDDNM",
            display_name="DDNM (Keeps What Was Seen)",
            category=CATEGORY,
            description="Null-space guidance: what was measured is kept, the model fills in the rest. Fast, nothing to "
            "tune. For masks, blur, upscaling and other linear damage.",
            inputs=[Measurement.Input("measurement", tooltip="What was seen."), *common_inputs()],
            outputs=[guidance_output()],
        )

    @classmethod
    def execute(cls, measurement, guidance=None, vae=None) -> io.NodeOutput:
        with torch.inference_mode(False):
            return chain(DDNM(measurement), guidance, vae)


class DiffPIRNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorDiffPIR",
            display_name="DiffPIR (Noisy Measurements)",
            category=CATEGORY,
            description="Weighs the model's picture against the measurement by their noise levels. Fast and steady, for "
            "linear damage with noise.",
            inputs=[
                Measurement.Input("measurement", tooltip="What was seen."),
                io.Float.Input(
                    "trust", default=1.0, min=0.01, max=100.0, step=0.01,
                    tooltip="How much the model counts against the measurement (the paper's lambda, no unit): larger is "
                    "smoother, smaller follows the measurement and its noise. Start with 1.",
                ),
                *common_inputs(),
            ],
            outputs=[guidance_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, trust, guidance=None, vae=None) -> io.NodeOutput:
        with torch.inference_mode(False):
            return chain(DiffPIR(measurement, trust), guidance, vae)


NODES = [DPSNode, DDNMNode, DiffPIRNode]
