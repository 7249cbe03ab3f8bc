"""Guidance nodes: the automatic choice, the general template, and the timing of any of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from comfy_api.latest import io

from ..guidance.auto import automatic
from ..guidance.general import General
from ..guidance.timing import SCHEDULES, Timing
from ..host.run import Guide
from ..host.spaces.vae import is_latent_vae
from .report import losses_in_words, paragraphs, rounding_in_words, spoken
from .schema import GuidanceNode, Setting, effort_input, guidance_output, guidance_schema
from .sockets import Guidance


class AutoGuidanceNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        chosen = guidance_schema(
            "PosteriorAutoGuidance", "Auto Guidance",
            "Picks a method by the damage, its noise and the kind of model, and says which. Start here.",
            io.Int.Input(
                "steps", default=30, min=1, max=10000,
                tooltip="How many steps your sampler will take: set it to the same number. Start with 30.",
            ),
            later=[effort_input()],
        )  # fmt: skip
        chosen.outputs.append(io.String.Output("report", display_name="report", tooltip="What was picked, and why."))
        chosen.is_output_node = True  # which says what it picked even when nothing has changed
        return chosen

    @classmethod
    def execute(cls, measurement, steps, guidance=None, vae=None, effort="normal") -> io.NodeOutput:
        with torch.inference_mode(False):
            chosen = automatic(measurement, steps, is_latent_vae(vae), gradient=effort == "best")
            guides = (*(guidance or ()), *(Guide(block, vae) for block in chosen.blocks))
        about = losses_in_words(measurement), rounding_in_words(measurement)
        return spoken(guides, chosen.report, text=paragraphs(chosen.report, *about))


class GeneralGuidanceNode(GuidanceNode):
    METHOD = General
    HEAD = (
        "PosteriorGeneralGuidance", "General Guidance (Build Your Own)",
        "The template behind the methods, with its three parts to choose: what is compared, how the difference "
        "becomes a picture, and how strongly it counts. To see and vary what a method is.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "error",
            "What is compared with the measurement. prediction: the model's clean picture. state: the "
            "noisy picture. Start with prediction.",
        ),
        Setting(
            "lifting",
            "How the difference becomes a picture. adjoint: spread back, safe. pinv: undone, exact. "
            "jacobian: spread back through the model, slow. Start with adjoint.",
        ),
        Setting(
            "scale",
            "How strongly it counts. variance: by the noise of measurement and step. constant: always "
            "alike. norm: always the same length. Start with variance.",
        ),
        Setting("c", "The constant in the scale (no unit); larger is weaker. Start with 1.", 0.0, 1000.0, 0.01),
    )


class GuidanceTimingNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorGuidanceTiming",
            display_name="Guidance Timing",
            category="posterior/guidance",
            description="When guidance listens, and how much. Holds for all blocks that come in; steps that do not "
            "listen cost nothing.",
            inputs=[
                Guidance.Input("guidance", tooltip="Any guidance."),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=100.0, step=0.05,
                    tooltip="Factor on what the guidance changes (no unit): 1 is the method as it is, 0 is off. Start "
                    "with 1.",
                ),
                io.Float.Input(
                    "start", default=0.0, min=0.0, max=1.0, step=0.01,
                    tooltip="From which share of the sampling, 0 first step to 1 last. Start with 0.",
                ),
                io.Float.Input(
                    "end", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="To which share of the sampling, 0 first step to 1 last. Start with 1.",
                ),
                io.Int.Input("every", default=1, min=1, max=100, tooltip="Only in each n-th step. Start with 1."),
                io.Combo.Input(
                    "schedule", options=list(SCHEDULES), default="constant",
                    tooltip="How the strength goes from start to end: even, rising, falling, or a bump in the middle. "
                    "Start with constant.",
                ),
            ],
            outputs=[guidance_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, guidance, strength, start, end, every, schedule) -> io.NodeOutput:
        timing = Timing(strength, start, end, every, schedule)
        with torch.inference_mode(False):
            return io.NodeOutput(
                tuple(
                    replace(guide, block=replace(guide.block, timing=timing * guide.block.timing)) for guide in guidance
                )
            )


NODES = [AutoGuidanceNode, GeneralGuidanceNode, GuidanceTimingNode]
