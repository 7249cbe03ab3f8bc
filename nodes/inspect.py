"""Inspection nodes: how a guided run went, and how likely its result is."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..algebra.refusal import Refusal
from ..host.likely import how_likely
from ..host.plot import Panel, draw
from ..host.record import RunRecord
from .priors import prompts
from .report import likelihood_in_words, spoken
from .search import found_by
from .sockets import Convergence, Guidance, planes

CATEGORY = "posterior/inspect"


class RecordConvergenceNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorRecordConvergence",
            display_name="Record Convergence",
            category=CATEGORY,
            description="Notes at each step how well the picture explains the measurement and how much guidance changes "
            "it. Put it between the guidance and the sampler, and plot the record with Convergence Plot.",
            inputs=[Guidance.Input("guidance", tooltip="What is to be watched.")],
            outputs=[
                Guidance.Output("watched", display_name="guidance", tooltip="The same guidance, for the sampler."),
                Convergence.Output("record", display_name="record", tooltip="For Convergence Plot."),
            ],
        )

    @classmethod
    def execute(cls, guidance) -> io.NodeOutput:
        trace = RunRecord()
        return io.NodeOutput(tuple(replace(guide, trace=trace) for guide in guidance), trace)


class ConvergencePlotNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorConvergencePlot",
            display_name="Convergence Plot",
            category=CATEGORY,
            description="Draws what Record Convergence has noted: the residual over the noise level (near 1 is a fit) and "
            "the size of the change by guidance, against the model calls; and what a sampler has noted itself.",
            inputs=[
                Convergence.Input("record", tooltip="From Record Convergence, or from a sampler that keeps a record."),
                io.Latent.Input("latent", tooltip="What the sampler gave, so that this node waits for it."),
                io.Int.Input(
                    "width", default=768, min=256, max=4096, step=8, tooltip="Of the plot, in pixels. Start with 768.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image")],
        )  # fmt: skip

    @classmethod
    def execute(cls, record, latent, width) -> io.NodeOutput:
        curves = {name: values for name, values in record.record.items() if isinstance(values, list)}
        if not record.rows and not curves:
            raise Refusal("Nothing was recorded; connect Record Convergence's guidance output to the sampler.")
        fits, residuals = {}, {}
        for number, (label, noisy) in enumerate(zip(record.labels, record.noisy, strict=True) if record.rows else ()):
            lines = fits if noisy else residuals
            name = label if record.labels.count(label) == 1 else f"{label} {number + 1}"
            lines[name] = [row.misfit[number] for row in record.rows]
        panels = [Panel("residual RMS / sigma_y", fits, mark=1.0)] if fits else []
        panels += [Panel("residual RMS (0 to 1)", residuals)] if residuals else []
        if record.rows:
            panels.append(Panel("change by guidance (RMS)", {"change": [row.change for row in record.rows]}))
        panels += [Panel(name, {name: values}) for name, values in curves.items()]
        return io.NodeOutput(draw(panels, "model calls" if record.rows else "steps", width))


class HowLikelyNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorHowLikely",
            display_name="How Likely (Log-Likelihood)",
            **found_by("PosteriorHowLikely"),
            category=CATEGORY,
            description="How likely a picture is under the model: its log-density, in bits per number, from the errors that "
            "the model makes when noise is put on the picture. Compares pictures under one model, or models on one picture.",
            inputs=[
                io.Model.Input("model", tooltip="Any picture model."),
                io.Image.Input("image", tooltip="The pictures to judge, of a size that suits the model."),
                io.Int.Input("levels", default=24, min=4, max=1000, tooltip="Noise levels to look at. Start with 24."),
                io.Int.Input(
                    "draws", default=2, min=2, max=1000,
                    tooltip="Noises at each level, a model call each: more make the number more exact. Start with 2.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**53, control_after_generate=False,
                    tooltip="Chooses the noises; keep it to compare pictures. Start with 0.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Needed for latent models (SD, SDXL, Flux ...): their own VAE."),
                io.Conditioning.Input(
                    "positive", optional=True, tooltip="Prompt: how likely the picture is with these words. None is fine "
                    "for models without prompts."
                ),
            ],
            outputs=[
                io.Float.Output("bits", display_name="bits per number", tooltip="Mean of the pictures; smaller is likelier."),
                io.String.Output("report", display_name="report", tooltip="The number of each picture, in words."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, model, image, levels, draws, seed, vae=None, positive=None) -> io.NodeOutput:
        positive, _ = prompts(model, positive)
        likely = how_likely(model, planes(image), levels, draws, positive, seed, vae)
        report = likelihood_in_words(likely.bits, likely.error, likely.numbers)
        return spoken(likely.bits.mean().item(), report, text=report)


NODES = [RecordConvergenceNode, ConvergencePlotNode, HowLikelyNode]
