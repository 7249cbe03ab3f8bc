"""Comparing: results side by side with their numbers, whether a residual is noise, which damage explains the picture."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from comfy_api.latest import io

from ..algebra.refusal import Refusal
from ..host.figures import grid, heat_map, histogram
from ..measurement.quality import psnr, ssim
from ..measurement.whiteness import whiteness
from .report import paragraphs, spoken
from .sockets import Convergence, Measurement, picture, planes

CATEGORY = "posterior/inspect"
PLACES = 8


class CompareNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorCompare",
            display_name="Compare",
            category=CATEGORY,
            description="Pictures side by side, each with its name, its fit, and, with a reference, PSNR and SSIM.",
            inputs=[
                io.Image.Input("image_1", tooltip="The first picture; of a batch the first one is shown."),
                *[io.Image.Input(f"image_{k}", optional=True, tooltip="Another picture.") for k in range(2, PLACES + 1)],
                io.String.Input(
                    "names", default="", multiline=True, optional=True,
                    tooltip="One name a line, in the order of the pictures. Start with none: they are numbered.",
                ),
                Measurement.Input("measurement", optional=True, tooltip="What was seen: adds the fit of each picture."),
                io.Image.Input("reference", optional=True, tooltip="The true picture: adds PSNR (dB) and SSIM (1 is equal)."),
                io.Int.Input(
                    "columns", default=0, min=0, max=PLACES, optional=True,
                    tooltip="Pictures in a row; 0 for up to four. Start with 0.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The sheet."),
                io.String.Output("report", display_name="report", tooltip="The numbers, a line a picture."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, image_1, names="", measurement=None, reference=None, columns=0, **more) -> io.NodeOutput:
        given = [image_1, *(more.get(f"image_{k}") for k in range(2, PLACES + 1))]
        pictures = [planes(image)[:1] for image in given if image is not None]
        titles = [line.strip() for line in names.splitlines()]
        captions, truth = [], None if reference is None else planes(reference)[:1]
        for number, x in enumerate(pictures):
            lines = [titles[number] if number < len(titles) and titles[number] else f"picture {number + 1}"]
            if measurement is not None:
                name = "fit" if measurement.noisy else "residual"
                lines.append(f"{name} {measurement.agreement(x).mean().item():.3g}")
            if truth is not None:
                lines.append(f"{psnr(x, truth).item():.2f} dB  SSIM {ssim(x, truth).item():.3f}")
            captions.append("\n".join(lines))
        sheet = grid([picture(x)[0] for x in pictures], captions, columns)
        return io.NodeOutput(sheet, "\n".join(caption.replace("\n", ", ") for caption in captions))


class ResidualTestNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorResidualTest",
            display_name="Residual Test (Is the Damage Right?)",
            category=CATEGORY,
            description="Looks at what a sample does not explain: if it is noise, the operator is right; if it has "
            "structure, the kernel, the mask or the noise level is not. A good fit alone does not tell.",
            inputs=[
                Measurement.Input("measurement", tooltip="What was seen, with a noise level above 0."),
                io.Image.Input("image", tooltip="Samples of the solution; restorations and means keep structure of their own."),
                io.Int.Input(
                    "radius", default=2, min=1, max=16,
                    tooltip="How far apart pixels are compared, in pixels. Larger sees broader structure, smaller is more "
                    "sensitive. Start with 2.",
                ),
            ],
            outputs=[
                io.Image.Output("autocorrelation", display_name="autocorrelation", tooltip="How alike residuals are that far apart: dark but for the middle is noise."),
                io.Image.Output("histogram", display_name="histogram", tooltip="Residuals in units of the noise, and the bell that they should follow."),
                io.Image.Output("residual", display_name="residual", tooltip="The residual itself: grey is agreement."),
                io.Float.Output("p_value", display_name="p value", tooltip="Probability of so much structure in noise; below 0.05 the damage is not as described."),
                io.String.Output("report", display_name="report", tooltip="The verdict in words."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, image, radius) -> io.NodeOutput:
        x = planes(image)
        found = whiteness(measurement, x, radius)
        rho = found.autocorrelation.mean(0).abs()
        size = max(256 // (2 * radius + 1), 1)
        shown = F.interpolate(rho[None, None].float(), scale_factor=size)[0, 0]
        p_value = min(found.p_value.min().item() * len(found.p_value), 1.0)
        scatter = found.residual[found.residual != 0].square().mean().sqrt().item()
        beside = rho.flatten().sort(descending=True).values[1].item()
        verdict = (
            "the residual is white: nothing speaks against the operator and the noise level"
            if p_value > 0.05
            else f"the residual has structure (neighbours agree by up to {beside:.2f}): the kernel, the mask or the noise is not "
            "quite as described, or the picture is no sample"
        )
        report = paragraphs(f"p = {p_value:.2g}: {verdict}", f"residual RMS {scatter:.2f} of sigma_y")
        return spoken(
            heat_map(shown, 1.0, "autocorrelation"), histogram(found.residual[found.residual != 0], "residual / sigma_y"),
            picture(measurement.residual_picture(x)), p_value, report, text=report,
        )  # fmt: skip


class EvidenceNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorEvidence",
            display_name="Evidence (Which Damage Explains It?)",
            category=CATEGORY,
            description="Compares two explanations of one picture by the evidence that particle samplers estimate: the "
            "probability of what was seen under each.",
            inputs=[
                Convergence.Input("record_a", tooltip="Of a particle sampler with the first operator."),
                io.Latent.Input("latent_a", tooltip="What that sampler gave, so that this node waits for it."),
                Convergence.Input("record_b", tooltip="Of a particle sampler with the second operator."),
                io.Latent.Input("latent_b", tooltip="What that sampler gave."),
            ],
            outputs=[
                io.Float.Output("log_ratio", display_name="log ratio", tooltip="log p(y given A) - log p(y given B): above 0 the first explains it better."),
                io.String.Output("report", display_name="report", tooltip="The verdict in words."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, record_a, latent_a, record_b, latent_b) -> io.NodeOutput:
        a, b = (_evidence(record.record) for record in (record_a, record_b))
        ratio = a - b
        better, odds = ("first", ratio) if ratio > 0 else ("second", -ratio)
        words = f"{math.exp(odds):.3g}" if odds < 20 else f"e^{odds:.0f}"
        report = f"log evidence {a:.1f} and {b:.1f}: the {better} damage explains the picture {words} times better"
        report += "; less than 3 times is no difference" if odds < math.log(3) else ""
        return spoken(ratio, report, text=report)


def _evidence(record: dict) -> float:
    if "log-evidence" not in record:
        raise Refusal(
            "This record holds no evidence; connect the record of a particle sampler (MCGDiff, TDS, FPS-SMC ...)."
        )
    return torch.as_tensor(record["log-evidence"]).double().mean().item()


NODES = [CompareNode, ResidualTestNode, EvidenceNode]
