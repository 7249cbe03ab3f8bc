"""Sampler nodes for few steps: latent models, no gradient through the model; and steps that fit the damage."""

from __future__ import annotations

from comfy_api.latest import io

from ..diffusion.operator_times import lost, times
from ..host.solve import flow_times
from ..samplers.base import Sampler
from ..samplers.flair import FLAIR
from ..samplers.flow_dps import TRIPS, FlowDPS
from ..samplers.latino import LATINO
from .schema import MeasuredSamplerNode, Setting
from .sockets import Measurement


class LATINONode(MeasuredSamplerNode):
    METHOD = LATINO
    HEAD = (
        "PosteriorLATINO", "LATINO (4 to 8 Steps)",
        "For few-step models (Turbo, Lightning, LCM, DMD2, schnell) with CFG off: starts from the rough inverse and puts "
        "each prediction right in the picture. Linear damage, no gradient anywhere, little memory.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "start",
            "back-projection: the damage roughly undone, noised, whatever the latent is. given: the noised latent as it "
            "comes. Start with back-projection.",
        ),
        Setting(
            "delta", least=0.0, most=1000.0, step=0.01,
            tooltip="How wrong predictions are taken to be, as a share of the step's own noise variance; 0 finds it from "
            "what was seen. Start with 0.",
        ),
    )  # fmt: skip


class FlowDPSNode(MeasuredSamplerNode):
    METHOD = FlowDPS
    HEAD = (
        "PosteriorFlowDPS", "FlowDPS and TriPS-T (Latent Models)",
        "Fits each prediction through the VAE alone, never through the model: for large latent models (SD3, Flux ...). Any "
        "damage, 8 to 50 steps.",
    )  # fmt: skip
    SETTINGS = (
        Setting("iterations", "Steps of each fit, passes through the VAE and back; it stops at the noise. Start with 3.", 1, 100),
    )  # fmt: skip

    @classmethod
    def inputs(cls, later: bool = False) -> list[io.Input]:
        if later:
            rising = io.Combo.Input(
                "cfg", options=["as set", "rising"], default="as set", optional=True,
                tooltip="rising: the guider's cfg is where it ends, from 1 on, as TriPS-T has it: a high cfg early fights the "
                "fit. as set: the same throughout. Start with rising where cfg is above 2.",
            )  # fmt: skip
            return [rising]
        preset = io.Combo.Input(
            "schedule", options=["TriPS-T", "FlowDPS"], default="TriPS-T",
            tooltip="TriPS-T: full fits, nearly all noise fresh until the last steps. FlowDPS: fits fade with the noise, which "
            "becomes fresh towards the end. Start with TriPS-T, which fits better.",
        )  # fmt: skip
        return [preset, *super().inputs()]

    @classmethod
    def make(cls, schedule, iterations, cfg="as set") -> Sampler:
        chosen = TRIPS if schedule == "TriPS-T" else FlowDPS()
        return FlowDPS(iterations, chosen.fresh, chosen.blend, rising=cfg == "rising")


class FLAIRNode(MeasuredSamplerNode):
    METHOD = FLAIR
    HEAD = (
        "PosteriorFLAIR", "FLAIR (Latent Models)",
        "Keeps one picture, relaxes it to what the model makes of it and fits it to what was seen through the VAE, in turn. "
        "Any damage, 4 to 50 steps, no gradient through the model.",
    )  # fmt: skip
    SETTINGS = (
        Setting("iterations", "Steps of each fit, passes through the VAE and back; it stops at the noise. Start with 5.", 1, 100),
    )  # fmt: skip


class OperatorSigmasNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorOperatorSigmas",
            display_name="Noise Levels for the Damage (SAS)",
            category="posterior/samplers",
            description="Noise levels where this damage needs them: more at high noise for what is missing, more at low "
            "noise for what is only weak. For linear damage.",
            inputs=[
                io.Model.Input("model", tooltip="Whose noise levels."),
                Measurement.Input("measurement", tooltip="What was seen."),
                io.Int.Input("steps", default=28, min=1, max=1000, tooltip="Model calls. Start with 28."),
                io.Float.Input(
                    "start", default=1.0, min=0.01, max=1.0, step=0.01,
                    tooltip="First noise level, 1 is pure noise and 0 a picture. Below 1 keeps some of where the sampler "
                    "starts from. Start with 1.",
                ),
                io.Float.Input(
                    "end", default=0.18, min=0.0, max=0.99, step=0.01,
                    tooltip="Below this noise level there is no step but the last, to the picture. Start with 0.18; less "
                    "keeps finer grain.",
                ),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=10.0, step=0.1,
                    tooltip="How uneven the steps may be (no unit); 0 is even. Start with 1.",
                ),
            ],
            outputs=[io.Sigmas.Output("sigmas", display_name="sigmas")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, measurement, steps, start, end, strength) -> io.NodeOutput:
        end = min(end, 0.9 * start)
        return io.NodeOutput(flow_times(model, times(*lost(measurement), steps, start, end, strength)))


NODES = [LATINONode, FlowDPSNode, FLAIRNode, OperatorSigmasNode]
