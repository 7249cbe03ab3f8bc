"""Sampler nodes: guided samplers, guidance inside a MODEL, and the one-node solver."""

from __future__ import annotations

from typing import get_args

from comfy_api.latest import io

from ..guidance.grey import Colours, is_grey
from ..host.apply import apply_guidance
from ..host.solver import solve
from ..host.start import STARTS, start_latent
from ..samplers.annealed import AnnealedRestoration, restoration_sigmas
from ..samplers.base import Sampler
from ..samplers.ddim import GuidedDDIM
from .priors import prompts
from .report import fit_in_words, losses_in_words, paragraphs, rounding_in_words, spoken
from .schema import SamplerNode, Setting, effort_input
from .search import found_by
from .sockets import Guidance, Measurement, picture

CATEGORY = "posterior/samplers"
#: published walks as settings of Guided DDIM. RePaint takes its first stretch once; that its stretches begin and end one
#: of 250 levels earlier is left out
WALKS = {"RePaint": GuidedDDIM(1.0, repeats=10, jump=10, start=0.04)}


class GuidedDDIMNode(SamplerNode):
    METHOD = GuidedDDIM
    HEAD = (
        "PosteriorGuidedDDIM", "Guided DDIM Sampler",
        "DDIM whose every step listens to the measurement. For SamplerCustom and SamplerCustomAdvanced.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "amount", start=1.0, least=0.0, most=100.0, step=0.01,
            tooltip="Fresh noise in each step, as noise_rule reads it: 0 none (one seed, one smooth path), 1 the "
            "full amount, which corrects earlier errors. Start with 1.",
        ),
        Setting(
            "rule", id="noise_rule",
            tooltip="eta: DDIM's own (1 is ancestral). zeta: DiffPIR's share of the noise, 0 to 1. varsigma: the "
            "standard deviation itself, in the model's unit. Start with eta.",
        ),
        Setting(
            "repeats", least=1, most=100, later=True,
            tooltip="Time travel: take each stretch of steps so many times, going back up in noise in between. "
            "More makes filled-in parts fit better and takes as many times longer. Start with 1, which is off.",
        ),
        Setting("jump", "Time travel: length of a stretch, in steps. Start with 1; RePaint has 10.", 1, 1000, later=True),
        Setting(
            "start", id="travel_start", least=0.0, most=1.0, step=0.01, later=True,
            tooltip="Time travel from this share of the sampling on, 0 to 1. Start with 0.",
        ),
        Setting(
            "end", id="travel_end", least=0.0, most=1.0, step=0.01, later=True,
            tooltip="Time travel up to this share of the sampling, 0 to 1. Start with 1.",
        ),
    )  # fmt: skip

    @classmethod
    def inputs(cls, later: bool = False) -> list[io.Input]:
        preset = io.Combo.Input(
            "preset", options=["as set here", *WALKS], default="as set here", optional=True,
            tooltip="The settings of a published method instead of those above. RePaint is for 250 steps with Noised "
            "Projection, 2410 model calls. Start with as set here.",
        )  # fmt: skip
        return [*super().inputs(later), *([preset] if later else [])]

    @classmethod
    def make(cls, preset="as set here", **given) -> Sampler:
        return WALKS.get(preset) or super().make(**given)


class AnnealedRestorationNode(SamplerNode):
    METHOD = AnnealedRestoration
    HEAD = (
        "PosteriorAnnealedRestoration", "Annealed Restoration Sampler",
        "Denoises and fits in turn without adding noise: one faithful, slightly smooth picture instead of a sample. Start "
        "it from a smooth Starting Point with Disable Noise.",
    )  # fmt: skip


class RestorationSigmasNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorRestorationSigmas",
            display_name="Restoration Noise Levels",
            category=CATEGORY,
            description="Noise levels for the Annealed Restoration Sampler, falling in equal ratios.",
            inputs=[
                io.Int.Input("steps", default=24, min=1, max=1000, tooltip="Model calls. Start with 24."),
                io.Float.Input(
                    "start", default=0.4, min=0.001, max=100.0, step=0.01, round=False,
                    tooltip="First noise level, in the model's unit (-1 to 1 for pixel models). Larger changes more of "
                    "the start. Start with 0.4.",
                ),
                io.Float.Input(
                    "end", default=0.02, min=0.0001, max=100.0, step=0.001, round=False,
                    tooltip="Last noise level, in the model's unit. About the noise of the measurement; smaller keeps finer grain. Start with 0.02.",
                ),
            ],
            outputs=[io.Sigmas.Output("sigmas", display_name="sigmas")],
        )  # fmt: skip

    @classmethod
    def execute(cls, steps, start, end) -> io.NodeOutput:
        return io.NodeOutput(restoration_sigmas(start, end, steps))


class StartingPointNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorStartingPoint",
            display_name="Starting Point",
            category=CATEGORY,
            description="A latent of the measurement's size to start sampling from: empty, or a first picture for fewer "
            "steps from a lower noise level.",
            inputs=[
                Measurement.Input("measurement", tooltip="What was seen."),
                io.Combo.Input(
                    "start", options=list(STARTS), default="noise",
                    tooltip="noise: an empty latent. smooth: holes filled and blur undone gently. back-projection: A^+ y. "
                    "Start with noise, or smooth for Annealed Restoration.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="How many pictures for one measurement; one of several pictures gets one each. Start with 1."),
                io.Vae.Input("vae", optional=True, tooltip="Needed for latent models (SD, SDXL, Flux ...): their own VAE."),
            ],
            outputs=[io.Latent.Output("latent", display_name="latent")],
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, start, batch_size, vae=None) -> io.NodeOutput:
        return io.NodeOutput({"samples": start_latent(measurement, start, batch_size, vae)})


class ApplyGuidanceNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorApplyGuidance",
            display_name="Apply Guidance to Model",
            **found_by("PosteriorApplyGuidance"),
            category=CATEGORY,
            description="A model that listens to the measurement in every sampler: KSampler, SamplerCustom, any guider. "
            "Two of them in a row listen to both.",
            inputs=[
                io.Model.Input("model", tooltip="The model to guide."),
                Guidance.Input("guidance", tooltip="What to listen to, and how."),
            ],
            outputs=[io.Model.Output("guided_model", display_name="model")],
        )

    @classmethod
    def execute(cls, model, guidance) -> io.NodeOutput:
        return io.NodeOutput(apply_guidance(model, guidance))


class SolveNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorSolve",
            display_name="Solve Inverse Problem (Repair, Restore)",
            **found_by("PosteriorSolve"),
            category=CATEGORY,
            description="From a measurement to pictures in one node. Chooses a method that fits, unless guidance is "
            "connected: DDNM for clean linear damage, DiffPIR for noisy one, Pi-GDM or DPS for the rest; LATINO, FLAIR or DPS for latent models.",
            inputs=[
                io.Model.Input("model", tooltip="Any picture model: the embedded photo prior, SD1.5, SDXL, SD3, Flux ..."),
                Measurement.Input("measurement", tooltip="What was seen."),
                io.Combo.Input(
                    "estimate", options=["restoration", "samples"], default="restoration",
                    tooltip="restoration: one faithful picture, slightly smooth. samples: possible pictures, sharp, each "
                    "seed another. Start with restoration for small damage, samples for large holes. Where a method cannot "
                    "restore (clipped light, phase retrieval, latent models, DDRM and the like), samples are made.",
                ),
                io.Int.Input("steps", default=30, min=1, max=1000, tooltip="Model calls per picture. Start with 30."),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**53, control_after_generate=True,
                    tooltip="Chooses the noise of samples; the same number gives the same picture. A restoration has no noise and "
                    "is the same with every seed. Start with 0.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="How many samples of one measurement; one of several pictures gets one each. Start with 1."),
                io.Float.Input(
                    "cfg", default=1.0, min=0.0, max=30.0, step=0.1,
                    tooltip="How closely to follow the prompt (no unit). 1 is off. Start with 1.",
                ),
                Guidance.Input("guidance", optional=True, tooltip="A method of your choice instead of the automatic one."),
                io.Vae.Input("vae", optional=True, tooltip="Needed for latent models (SD, SDXL, Flux ...): their own VAE."),
                io.Conditioning.Input("positive", optional=True, tooltip="Prompt; none is fine for unconditional models."),
                io.Conditioning.Input("negative", optional=True, tooltip="Negative prompt, used when cfg is above 1."),
                effort_input(),
                io.Combo.Input(
                    "colours", options=list(get_args(Colours)), default="automatic", optional=True,
                    tooltip="automatic: what was grey stays grey. keep grey: the answer is grey, also of a yellowed or blotchy "
                    "scan, and with guidance of your own. free: the model may add colours. Start with automatic.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The restoration, or the samples."),
                io.Image.Output("mean", display_name="mean", tooltip="Average of the pictures: best in squared error."),
                io.Float.Output("fit", display_name="fit", tooltip="Residual RMS / sigma_y: 1 for a sample, a restoration may lie below. With sigma_y = 0 the RMS."),
                io.String.Output("report", display_name="report", tooltip="What was chosen, and how well it fits."),
            ],
            is_output_node=True,  # which says what it found even when nothing has changed
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, measurement, estimate, steps, seed, batch_size, cfg,
        guidance=None, vae=None, positive=None, negative=None, effort="normal",
        colours="automatic",
    ) -> io.NodeOutput:  # fmt: skip
        positive, negative = prompts(model, positive, negative, cfg)
        images, path = solve(
            model, measurement, steps, estimate == "restoration", guidance or (), vae, effort, batch=batch_size, colours=colours,
            positive=positive, negative=negative, cfg=cfg, seed=seed,
        )  # fmt: skip
        mean = images.mean(0, keepdim=True) if len(measurement.y) == 1 else images
        seen = path.measurement
        fit = seen.agreement(images.cpu())
        words = fit_in_words(seen, fit, path.kind, path.grey and not is_grey(seen))
        report = paragraphs(words, losses_in_words(seen), rounding_in_words(seen), path.words)
        return spoken(picture(images), picture(mean), fit.mean().item(), report, text=report)


NODES = [
    GuidedDDIMNode, AnnealedRestorationNode, RestorationSigmasNode, StartingPointNode, ApplyGuidanceNode, SolveNode,
]  # fmt: skip
