"""Analytic priors as models, and what is known about their posteriors."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..host.models.exact import exact_posterior
from ..host.models.pixel_model import ready_model
from ..priors.analytic import PictureGaussian, PictureMixture, Texture
from .priors import CATEGORY
from .sockets import Measurement, picture, planes


class GaussianPriorNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorGaussianPrior",
            display_name="Gaussian Prior (Picture Batch)",
            category=CATEGORY,
            description="An exact model of a Gaussian with the mean and the covariance of some pictures. What it "
            "restores is a mean plus the ways in which the pictures differ; every method can be checked against it.",
            inputs=[
                io.Image.Input("images", tooltip="Two pictures or more, aligned. The model makes pictures of their "
                "size."),
                io.Float.Input(
                    "floor", default=0.02, min=0.001, max=1.0, step=0.001, round=False,
                    tooltip="Deviation of what the pictures do not show, in brightness (0 to 1). Larger trusts them "
                    "less. Start with 0.02.",
                ),
            ],
            outputs=[io.Model.Output("model", display_name="model")],
        )  # fmt: skip

    @classmethod
    def execute(cls, images, floor) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(ready_model(PictureGaussian(2 * planes(images) - 1, 2 * floor)))


class MixturePriorNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorMixturePrior",
            display_name="Mixture Prior (Picture Batch)",
            category=CATEGORY,
            description="An exact model that knows these pictures and nothing else, each with some noise around it. "
            "Shows how a posterior chooses between possibilities.",
            inputs=[
                io.Image.Input("images", tooltip="The possible pictures. The model makes pictures of their size."),
                io.Float.Input(
                    "deviation", default=0.05, min=0.001, max=1.0, step=0.001, round=False,
                    tooltip="Noise around each picture, in brightness (0 to 1). Start with 0.05.",
                ),
            ],
            outputs=[io.Model.Output("model", display_name="model")],
        )  # fmt: skip

    @classmethod
    def execute(cls, images, deviation) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(ready_model(PictureMixture(2 * planes(images) - 1, 2 * deviation)))


class TexturePriorNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorTexturePrior",
            display_name="Texture Prior (One Picture)",
            category=CATEGORY,
            description="An exact model of the texture of one picture: sand, cloth, clouds, grain. Makes more of it at "
            "any size, and fills holes in it.",
            inputs=[
                io.Image.Input("image", tooltip="A picture of an even texture, without objects. The first of a batch "
                "counts."),
                io.Float.Input(
                    "floor", default=0.01, min=0.0, max=1.0, step=0.001, round=False,
                    tooltip="Deviation of fine grain that is added to the texture, in brightness (0 to 1). Start with "
                    "0.01.",
                ),
            ],
            outputs=[io.Model.Output("model", display_name="model")],
        )  # fmt: skip

    @classmethod
    def execute(cls, image, floor) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(ready_model(Texture(2 * planes(image)[0] - 1, 2 * floor)))


class ExactPosteriorNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PosteriorExactPosterior",
            display_name="Exact Posterior (Analytic Prior)",
            category=CATEGORY,
            description="The right answer, by a formula instead of sampling, for the Gaussian, mixture and texture priors "
            "and small pictures: what every method should give.",
            inputs=[
                io.Model.Input("model", tooltip="A Gaussian, mixture or texture prior."),
                Measurement.Input("measurement", tooltip="Linear, with Gaussian noise, of a picture up to 32 x 32."),
                io.Int.Input("count", default=4, min=1, max=256, tooltip="How many samples to draw. Start with 4."),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**53, control_after_generate=True,
                    tooltip="Chooses the samples; the same number gives the same ones. Start with 0.",
                ),
            ],
            outputs=[
                io.Image.Output("mean", display_name="mean", tooltip="E[x given y], best in squared error."),
                io.Image.Output("samples", display_name="samples", tooltip="Independent draws, each as good as the truth."),
                io.Image.Output("deviation", display_name="deviation", tooltip="How uncertain each value is, 0 to 1."),
                io.Float.Output("log_evidence", display_name="log evidence", tooltip="log p(y): compares priors."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, measurement, count, seed) -> io.NodeOutput:
        exact = exact_posterior(model, measurement, count, seed)
        return io.NodeOutput(picture(exact.mean), picture(exact.samples), picture(exact.deviation), exact.log_evidence)


NODES = [GaussianPriorNode, MixturePriorNode, TexturePriorNode, ExactPosteriorNode]
