"""Measurement nodes: what was seen, and how well a picture explains it."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..algebra.refusal import Refusal
from ..host.start import start_picture
from ..measurement.coloured_noise import blotches
from ..measurement.measurement import Measurement as Measured
from ..measurement.measurement import combine, require_finite
from ..measurement.noise import GaussianNoise, Noise, PoissonNoise
from ..measurement.noise_spectrum import blotches_in
from ..measurement.plain_noise import estimated_level
from .report import fit_in_words, spoken
from .search import found_by
from .sockets import Measurement, Operator, hole, picture, planes

CATEGORY = "posterior/measurement"
#: for whoever puts a damaged picture where a clean one belongs
SIMULATED = "Damaged here, for a study. A picture that is damaged already belongs in Observe."
#: a picture may be so many pixels wider or higher than what was measured, less one: the coarsest VAE's latent pixel
SPARE = 32


def sigma_input(default: float) -> io.Float.Input:
    return io.Float.Input(
        "sigma_y", default=default, min=0.0, max=1.0, step=0.001, round=False,
        tooltip="Noise in the measurement: standard deviation, where black is 0 and white is 1. "
        "0 is clean, 0.02 a good photo, 0.1 a grainy one. Start with 0.02.",
    )  # fmt: skip


def more_noise_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "gain", default=0.0, min=0.0, max=1.0, step=0.001, round=False, optional=True,
            tooltip="Photon noise: brightness of one photon, where white is 1. 0 is none, 0.001 a good sensor, 0.05 very "
            "little light. It comes on top of sigma_y. Start with 0.",
        ),
        io.Mask.Input(
            "noise_map", optional=True,
            tooltip="Where the measurement is noisier: standard deviation as grey, black 0 and white 1, on top of sigma_y. "
            "Same size as the measurement.",
        ),
    ]  # fmt: skip


def blotch_input() -> io.Input:
    return io.Float.Input(
        "blotch", default=0.0, min=0.0, max=5.0, step=0.1, round=False, optional=True,
        tooltip="Size of the noise's blotches, in pixels: of the Gaussian blur that makes them of even grain. 0 is even grain, "
        "1 a phone or an enlarged scan, 2 coarse. sigma_y is their deviation. Start with 0.",
    )  # fmt: skip


def noise_model(
    sigma_y: float, gain: float, noise_map, blotch: float, shape: tuple[int, ...], noise: Noise | None = None
) -> Noise:
    """shape: of the measurement, without its batch. noise: what is known of it already."""
    if blotch > 0 and gain > 0:
        raise Refusal("Photon noise has no blotches; set either the gain or the size of the blotches to 0.")
    if blotch > 0 and len(shape) != 3:
        raise Refusal("Noise with blotches needs a measurement that is a picture; set their size to 0.")
    if noise is None and blotch > 0:
        noise = blotches(sigma_y, blotch, shape[1:])
    elif noise is None:
        noise = PoissonNoise(gain, sigma_y) if gain > 0 else GaussianNoise(sigma_y)
    return noise if noise_map is None else noise.widened(hole(noise_map, "noise map"))


def measurement_output() -> io.Output:
    return Measurement.Output(
        "measurement", display_name="measurement", tooltip="What was seen, and how it came about."
    )


class ObserveNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorObserve",
            display_name="Observe (Damaged Picture)",
            **found_by("PosteriorObserve"),
            category=CATEGORY,
            description="A picture that is already damaged, together with what happened to it.",
            inputs=[
                io.Image.Input("image", tooltip="The damaged picture as it is."),
                Operator.Input("operator", tooltip="What happened to it."),
                sigma_input(0.02),
                *more_noise_inputs(),
                io.Combo.Input(
                    "noise", options=["as given", "estimated"], default="as given", optional=True,
                    tooltip="as given: sigma_y. estimated: from the picture itself, at least 64 x 64 pixels, in its place; "
                    "even grain, blotches, or none. Start with as given.",
                ),
                blotch_input(),
            ],
            outputs=[measurement_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, image, operator, sigma_y, gain=0.0, noise_map=None, noise="as given", blotch=0.0) -> io.NodeOutput:
        x, text = planes(image), ""
        with torch.inference_mode(False):
            y, blotchy = operator.read(x), None
            if noise == "estimated":
                require_finite(x)
                blotchy, blotch = blotches_in(y), 0.0
                sigma_y = estimated_level(x) if blotchy is None else blotchy.sigma.square().mean().sqrt().item()
                text = (
                    f"noise level {sigma_y:.4f}, estimated (white is 1)." if sigma_y else "no noise, but for rounding."
                )
                text += " It has blotches." if blotchy else ""
            model = noise_model(sigma_y, gain, noise_map, blotch, tuple(y.shape[1:]), blotchy)
            measurement = Measured.observe(operator, x, model)
        return spoken(measurement, text=text)


class SimulateNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorSimulate",
            display_name="Simulate (Damage a Clean Picture)",
            category=CATEGORY,
            description="Damages a clean picture on purpose, for studies where the truth must be known.",
            inputs=[
                io.Image.Input("image", tooltip="A clean picture."),
                Operator.Input("operator", tooltip="What should happen to it."),
                sigma_input(0.02),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**53, control_after_generate=False,
                    tooltip="Chooses the noise; the same number gives the same noise. Start with 0.",
                ),
                *more_noise_inputs(),
                blotch_input(),
            ],
            outputs=[measurement_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, image, operator, sigma_y, seed, gain=0.0, noise_map=None, blotch=0.0) -> io.NodeOutput:
        with torch.inference_mode(False):
            x = planes(image)
            operator.check(tuple(x.shape[1:]))
            noise = noise_model(sigma_y, gain, noise_map, blotch, operator.measurement_shape(tuple(x.shape[1:])))
            measurement = Measured.simulate(operator, x, noise, seed)
        return spoken(measurement, text=SIMULATED)


class CombineNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorCombine",
            display_name="Combine Measurements",
            category=CATEGORY,
            description="Two measurements of one picture as one: two exposures, a blurred and a noisy shot.",
            inputs=[
                Measurement.Input("first", tooltip="One measurement."),
                Measurement.Input(
                    "second", tooltip="Another one of the same picture. Put several nodes in a row for more."
                ),
            ],
            outputs=[measurement_output()],
        )

    @classmethod
    def execute(cls, first, second) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(combine([first, second]))


class PreviewMeasurementNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorPreviewMeasurement",
            display_name="Preview Measurement",
            category=CATEGORY,
            description="A picture of any measurement: the damaged photo as it is, frequencies and sensing coefficients "
            "by their strength on a logarithmic scale.",
            inputs=[Measurement.Input("measurement", tooltip="What was seen.")],
            outputs=[io.Image.Output("image", display_name="image", tooltip="What was seen, for the eye.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, measurement) -> io.NodeOutput:
        image = picture(measurement.picture())
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))


class BackProjectionNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorBackProjection",
            display_name="Back-Projection (Picture of a Measurement)",
            category=CATEGORY,
            description="The simplest picture that a measurement allows, without any model: a baseline and a preview.",
            inputs=[
                Measurement.Input("measurement", tooltip="What was seen."),
                io.Combo.Input(
                    "kind", options=["back-projection", "smooth"], default="back-projection",
                    tooltip="back-projection: A^+ y, holes stay black. smooth: holes are filled and blur undone gently. "
                    "Start with back-projection.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="Cut to what a picture can show.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, measurement, kind) -> io.NodeOutput:
        return io.NodeOutput(picture(start_picture(measurement, kind)))


class MeasurementFitNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorMeasurementFit",
            display_name="Measurement Fit",
            **found_by("PosteriorMeasurementFit"),
            category=CATEGORY,
            description="How well a picture explains the measurement: residual RMS / sigma_y. A sample has 1, a restoration or "
            "mean may lie below; well above 1 misses data. A fit does not prove that the operator is right.",
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="Any picture of the measurement's size. Up to 31 pixels more at the right and the "
                    "bottom, which a VAE adds to fill its latent, are left out.",
                ),
                Measurement.Input("measurement", tooltip="What was seen."),
            ],
            outputs=[
                io.Float.Output(
                    "fit", display_name="fit", tooltip="RMS of (y - A x) / sigma_y; with sigma_y = 0 the RMS."
                ),
                io.String.Output("report", display_name="report", tooltip="The same in words."),
                io.Image.Output(
                    "residual",
                    display_name="residual",
                    tooltip="y - A x: grey is agreement, black and white are four sigma_y off (at least 1/16).",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image, measurement) -> io.NodeOutput:
        x, (channels, height, width) = planes(image), measurement.image_shape
        spare = (x.shape[2] - height, x.shape[3] - width)
        if x.shape[1] != channels or not all(0 <= side < SPARE for side in spare):
            raise Refusal(
                f"The picture is {x.shape[3]} x {x.shape[2]} and the measurement speaks of {width} x {height}; "
                "give a picture of that size."
            )
        x = x[..., :height, :width]
        if len(x) != len(measurement.y) and 1 not in (len(x), len(measurement.y)):
            raise Refusal(
                f"There are {len(x)} pictures and the measurement has {len(measurement.y)}; give one, or one for each."
            )
        agreement = measurement.agreement(x)
        report = fit_in_words(measurement, agreement, "picture")
        if measurement.noisy:
            report = (
                f"{report}\nresidual RMS {', '.join(f'{value:.4g}' for value in measurement.residual_rms(x).tolist())}"
            )
        if any(spare):
            report = f"{report}, of the upper left {width} x {height}"
        residual = picture(measurement.residual_picture(x))
        return spoken(agreement.mean().item(), report, residual, text=report)


NODES = [
    ObserveNode, SimulateNode, CombineNode, PreviewMeasurementNode, BackProjectionNode, MeasurementFitNode,
]  # fmt: skip
