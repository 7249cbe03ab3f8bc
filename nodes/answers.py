"""Answers beyond one sample: many samples and what they say together, the mean, and what lies between."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..algebra.refusal import Refusal
from ..host.figures import heat_map
from ..host.samples import Gathered, gather
from ..host.solve import Path, choose, posterior_mean_only, sampling_sigmas
from ..measurement.samples import diversity, interval, perception_distortion, require_several
from .priors import prompts
from .report import fit_in_words, paragraphs, spoken
from .schema import effort_input
from .sockets import Guidance, Measurement, picture, planes

CATEGORY = "posterior/inspect"


def model_inputs() -> list[io.Input]:
    """What a run of the model needs, after the measurement."""
    return [
        io.Int.Input("steps", default=30, min=1, max=1000, tooltip="Model calls per sample. Start with 30."),
        io.Int.Input(
            "seed", default=0, min=0, max=2**53, control_after_generate=True,
            tooltip="Chooses the noise; sample k of a seed is the same picture however many are made. Start with 0.",
        ),
        io.Float.Input(
            "cfg", default=1.0, min=0.0, max=30.0, step=0.1,
            tooltip="How closely to follow the prompt (no unit). 1 is off. Start with 1.",
        ),
        io.Int.Input(
            "at_once", default=0, min=0, max=256,
            tooltip="How many samples are made at once: 0 as many as the memory holds, 1 takes the least. Start with 0.",
        ),
        Guidance.Input("guidance", optional=True, tooltip="A method of your choice instead of the automatic one."),
        io.Vae.Input("vae", optional=True, tooltip="Needed for latent models (SD, SDXL, Flux ...): their own VAE."),
        io.Conditioning.Input("positive", optional=True, tooltip="Prompt; none is fine for unconditional models."),
        io.Conditioning.Input("negative", optional=True, tooltip="Negative prompt, used when cfg is above 1."),
        io.Sampler.Input("sampler", optional=True, tooltip="A sampler of your choice, guided already; guidance is then not used."),
        io.Sigmas.Input("sigmas", optional=True, tooltip="Its noise levels; without them as many steps as above."),
        effort_input(),
    ]  # fmt: skip


def sampled(
    model, measurement, count, keep, steps, seed, cfg, at_once,
    guidance=None, vae=None, positive=None, negative=None, sampler=None, sigmas=None, effort="normal",
) -> tuple[Gathered, Path]:  # fmt: skip
    """The samples, and how they were made."""
    if len(measurement.y) > 1:
        raise Refusal(
            "The measurement holds several pictures; take samples of one at a time (ImageFromBatch before Observe)."
        )
    positive, negative = prompts(model, positive, negative, cfg)
    if sampler is None:
        path = choose(model, measurement, steps, False, guidance or (), vae, effort, cfg)
    else:
        levels = sampling_sigmas(model, steps) if sigmas is None else sigmas
        path = Path(
            measurement, sampler, levels, "noise", "sample", f"samples by a sampler of yours; {len(levels) - 1} steps"
        )

    def sample(first: int, number: int) -> torch.Tensor:
        return path.run(model, number, positive, negative, cfg, seed, vae, first=first)

    return gather(model, path, count, keep, at_once, sample), path


def stopped_in_words(found: Gathered) -> str:
    count = found.moments.count
    return f"{count} samples" if count == found.asked else f"stopped after {count} of {found.asked} samples"


def deviation_map(deviation: torch.Tensor) -> torch.Tensor:
    """Standard deviations, `C H W`, as a heat map: their root mean square over the colours."""
    values = deviation.double().square().mean(0).sqrt()
    return heat_map(values, max(values.max().item(), 1e-3), "standard deviation (white is 1)")


def samples_input(default: int) -> io.Int.Input:
    return io.Int.Input(
        "samples", default=default, min=1, max=4096,
        tooltip=f"How many samples: 8 give a rough spread, 64 a good one. Start with {default}.",
    )  # fmt: skip


class PosteriorSamplesNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorSamples",
            display_name="Posterior Samples (How Sure Is It?)",
            category=CATEGORY,
            description="Many pictures that could all be true, a few at a time, and what they agree on: their mean, and "
            "a map of how unsure each pixel is. Cancel keeps what is there.",
            inputs=[
                io.Model.Input("model", tooltip="Any picture model."),
                Measurement.Input("measurement", tooltip="What was seen, of one picture."),
                samples_input(16),
                io.Int.Input(
                    "keep", default=16, min=1, max=4096,
                    tooltip="How many of the samples are given out; mean and spread are of all. Start with 16.",
                ),
                *model_inputs(),
            ],
            outputs=[
                io.Image.Output("samples_image", display_name="samples", tooltip="The first samples, as many as are kept."),
                io.Image.Output("mean", display_name="mean", tooltip="The MMSE estimate: best in squared error, a little smooth."),
                io.Image.Output("uncertainty", display_name="uncertainty", tooltip="Standard deviation of each pixel as a heat map, with a scale."),
                io.String.Output("report", display_name="report", tooltip="How many, by what, and how well they fit."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, model, measurement, samples, keep, **run) -> io.NodeOutput:
        found, path = sampled(model, measurement, samples, keep, **run)
        fit = path.measurement.agreement(found.kept)
        unsure = found.moments.deviation.square().mean().sqrt().item()
        report = paragraphs(
            f"{stopped_in_words(found)}; standard deviation {unsure:.3f} on average (white is 1)",
            fit_in_words(path.measurement, fit, "sample"), path.words,
        )  # fmt: skip
        mean = found.moments.mean[None].float()
        return spoken(picture(found.kept), picture(mean), deviation_map(found.moments.deviation), report, text=report)


class MMSEEstimateNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorMMSEEstimate",
            display_name="MMSE Estimate (Mean of Samples)",
            category=CATEGORY,
            description="The picture with the least expected squared error: the mean of samples, or one model call where "
            "there is noise only.",
            inputs=[
                io.Model.Input("model", tooltip="Any picture model."),
                Measurement.Input("measurement", tooltip="What was seen, of one picture."),
                samples_input(32),
                *model_inputs(),
            ],
            outputs=[
                io.Image.Output("mean", display_name="mean", tooltip="Best in squared error, smoother than any true picture."),
                io.Image.Output("uncertainty", display_name="uncertainty", tooltip="Standard deviation of each pixel as a heat map; none from one call."),
                io.String.Output("report", display_name="report", tooltip="How it was made, and how well it fits."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, model, measurement, samples, **run) -> io.NodeOutput:
        own = (
            posterior_mean_only(model, measurement, run.get("vae"))
            if not run.get("guidance") and not run.get("sampler")
            else None
        )
        if own is not None:
            conditions = prompts(model, run.get("positive"), run.get("negative"), run["cfg"])
            mean = own.run(model, 1, *conditions, run["cfg"], run["seed"])[:1]
            report = paragraphs(fit_in_words(measurement, measurement.agreement(mean.cpu()), "mean"), own.words)
            return spoken(picture(mean), deviation_map(torch.zeros_like(mean[0])), report, text=report)
        found, path = sampled(model, measurement, samples, 1, **run)
        mean = found.moments.mean[None].float()
        words = fit_in_words(path.measurement, path.measurement.agreement(mean), "mean")
        report = paragraphs(f"mean of {stopped_in_words(found)}", words, path.words)
        return spoken(picture(mean), deviation_map(found.moments.deviation), report, text=report)


class PosteriorStatisticsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorStatistics",
            display_name="Posterior Statistics",
            category=CATEGORY,
            description="What several samples say together: mean, uncertainty, the range of each pixel, the best-fitting "
            "sample, the two that differ most, and a mask of what is unsure, ready for a second pass.",
            inputs=[
                io.Image.Input("samples", tooltip="Samples of one picture, two or more: from Posterior Samples, Solve, any sampler."),
                io.Float.Input(
                    "interval", default=0.9, min=0.1, max=0.99, step=0.01,
                    tooltip="Probability of the range between low and high, 0 to 1. Start with 0.9.",
                ),
                io.Float.Input(
                    "unsure_above", default=0.05, min=0.0, max=1.0, step=0.005, round=False,
                    tooltip="Standard deviation from which a pixel counts as unsure, where white is 1. Start with 0.05.",
                ),
                Measurement.Input("measurement", optional=True, tooltip="What was seen: tells which sample fits best."),
                io.Image.Input("reference", optional=True, tooltip="The true picture, for studies: tells whether the ranges hold."),
            ],
            outputs=[
                io.Image.Output("mean", display_name="mean", tooltip="The MMSE estimate."),
                io.Image.Output("uncertainty", display_name="uncertainty", tooltip="Standard deviation as a heat map, with a scale."),
                io.Image.Output("low", display_name="low", tooltip="Lower end of each pixel's range."),
                io.Image.Output("high", display_name="high", tooltip="Upper end of each pixel's range."),
                io.Image.Output("best", display_name="best fit", tooltip="The sample that explains the measurement best; the first one without a measurement."),
                io.Image.Output("pair", display_name="most different", tooltip="The two samples that differ most."),
                io.Mask.Output("unsure", display_name="unsure", tooltip="1 where the samples differ more than the threshold."),
                io.String.Output("report", display_name="report", tooltip="The numbers in words."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, samples, unsure_above, measurement=None, reference=None, **level) -> io.NodeOutput:
        x = planes(samples)
        require_several(x)
        deviation, found, apart = x.double().std(0), interval(x, level["interval"]), diversity(x)
        values = deviation.square().mean(0).sqrt()
        unsure = (values > unsure_above).float()
        words = [
            f"{len(x)} samples: standard deviation {values.square().mean().sqrt().item():.3f} on average, at most "
            f"{values.max().item():.3f} (white is 1); {unsure.mean().item():.0%} of the pixels are unsure",
            f"two samples differ by {apart.mean:.3f} (RMS), samples {apart.pair[0] + 1} and {apart.pair[1] + 1} most, by "
            f"{apart.widest:.3f}",
        ]  # fmt: skip
        best = 0
        if measurement is not None:
            fit = measurement.agreement(x)
            best = int((fit - 1).abs().argmin() if measurement.noisy else fit.argmin())
            words.append(f"sample {best + 1} fits best ({fit[best].item():.3g})")
            words.append(mean_fit_in_words(measurement, x))
        if reference is not None:
            inside = found.coverage(planes(reference)[0])
            verdict = (
                "too sure" if inside < found.level - 0.1 else "too unsure" if inside > found.level + 0.1 else "well"
            )
            words.append(
                f"the true picture lies inside the ranges for {inside:.0%} of the numbers, {found.level:.0%} if the samples are "
                f"exact: they are {'calibrated ' if verdict == 'well' else ''}{verdict}"
            )
        report = paragraphs(*words)
        return spoken(
            picture(x.mean(0, keepdim=True)), deviation_map(deviation), picture(found.low[None]), picture(found.high[None]),
            picture(x[best : best + 1]), picture(x[list(apart.pair)]), unsure[None], report, text=report,
        )  # fmt: skip


def mean_fit_in_words(measurement, x: torch.Tensor) -> str:
    """The fit of the mean, and the one to expect: E fit^2 = 1 - E Var[A x] / sigma_y^2 for a linear A.

    With H the map from y to A E[x given y], residuals of the mean keep tr(I - H) / m of the noise, and A Cov A^T is
    sigma_y^2 H.
    """
    if not (measurement.noisy and measurement.operator.linear) or len(x) < 4:
        return ""
    measurement = measurement.whitened() if measurement.noise.correlated else measurement
    spread = measurement.operator.forward(x).double().var(0, keepdim=True)
    deviation = torch.as_tensor(measurement.noise.deviation(measurement.y)).double()
    support = measurement.operator.support(measurement.y)
    share = spread / deviation.clamp_min(1e-12) ** 2
    seen = share if support is None else share[(support > 0).expand_as(share)]
    expected = max(1 - seen.mean().item(), 0.0) ** 0.5
    fit = measurement.fit(x.mean(0, keepdim=True)).item()
    return f"the mean fits with {fit:.2f}; {expected:.2f} is what their spread lets expect"


class PerceptionDistortionNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorPerceptionDistortion",
            display_name="Perception-Distortion",
            category=CATEGORY,
            description="Between the safest picture and the sharpest: 0 is the mean of the samples, with the least error, 1 a "
            "sample, which looks like a photo. Half way costs a quarter more squared error than the mean.",
            inputs=[
                io.Image.Input("mean", tooltip="The MMSE estimate, from Posterior Samples or MMSE Estimate."),
                io.Image.Input("sample", tooltip="One sample, or several."),
                io.Float.Input(
                    "perception", default=0.5, min=0.0, max=1.0, step=0.05,
                    tooltip="0: least error, smooth. 1: looks real, twice the squared error (no unit). Start with 0.5.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image")],
        )  # fmt: skip

    @classmethod
    def execute(cls, mean, sample, perception) -> io.NodeOutput:
        mean, sample = planes(mean), planes(sample)
        if mean.shape[1:] != sample.shape[1:] or len(mean) not in (1, len(sample)):
            raise Refusal("Mean and sample differ in size; give two pictures of the same measurement.")
        return io.NodeOutput(picture(perception_distortion(mean, sample, perception)))


NODES = [PosteriorSamplesNode, MMSEEstimateNode, PosteriorStatisticsNode, PerceptionDistortionNode]
