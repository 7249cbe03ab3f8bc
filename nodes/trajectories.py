"""More samplers: ODE and SDE solvers, Langevin, predictor-corrector. Each listens to any number of guidance blocks."""

from __future__ import annotations

from comfy_api.latest import io

from ..diffusion.schedule import AXES
from ..host.sampler import GuidedSampler
from ..samplers.base import Sampler
from ..samplers.ddim import GuidedDDIM
from ..samplers.dpm import DPMSolver
from ..samplers.heun import Heun
from ..samplers.langevin import AnnealedLangevin, PredictorCorrector
from ..samplers.maruyama import EulerMaruyama
from .samplers import CATEGORY
from .sockets import Guidance

ODE_SOLVERS: dict[str, Sampler] = {"DPM-Solver++ 2M": DPMSolver(), "Heun": Heun(), "Euler": GuidedDDIM()}
SDE_SOLVERS: dict[str, Sampler] = {
    "DPM-Solver++ 2M": DPMSolver(stochastic=True),
    **{f"Euler-Maruyama {name}": EulerMaruyama(axis) for name, axis in AXES.items()},
}


def sampler_schema(node_id: str, display_name: str, description: str, *inputs: io.Input) -> io.Schema:
    """A node that gives a SAMPLER; its last input is the guidance."""
    guidance = Guidance.Input("guidance", optional=True, tooltip="What to listen to; without it the model is sampled.")
    return io.Schema(
        node_id=node_id,
        display_name=display_name,
        category=CATEGORY,
        description=description,
        inputs=[*inputs, guidance],
        outputs=[io.Sampler.Output("sampler", display_name="sampler", tooltip="For SamplerCustom(Advanced).")],
    )


class GuidedODENode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return sampler_schema(
            "PosteriorGuidedODE", "Guided ODE Sampler",
            "No fresh noise: the same seed gives the same picture, smoothly. Few steps are enough, 15 to 30.",
            io.Combo.Input(
                "solver", options=list(ODE_SOLVERS), default="DPM-Solver++ 2M",
                tooltip="DPM-Solver++ 2M: accurate at one model call a step. Heun: two calls a step, steadier. Euler: the "
                "plain one, DDIM. Start with DPM-Solver++ 2M.",
            ),
        )  # fmt: skip

    @classmethod
    def execute(cls, solver, guidance=None) -> io.NodeOutput:
        return io.NodeOutput(GuidedSampler(guidance or (), ODE_SOLVERS[solver]))


class GuidedSDENode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return sampler_schema(
            "PosteriorGuidedSDE", "Guided SDE Sampler",
            "Fresh noise in each step, which corrects earlier errors and gives a more faithful spread of samples.",
            io.Combo.Input(
                "solver", options=list(SDE_SOLVERS), default="DPM-Solver++ 2M",
                tooltip="DPM-Solver++ 2M: good from 30 steps on. Euler-Maruyama: the textbook scheme on the VE, VP or flow "
                "time axis, for studies; needs 200 steps or more. Start with DPM-Solver++ 2M.",
            ),
        )  # fmt: skip

    @classmethod
    def execute(cls, solver, guidance=None) -> io.NodeOutput:
        return io.NodeOutput(GuidedSampler(guidance or (), SDE_SOLVERS[solver]))


class AnnealedLangevinNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return sampler_schema(
            "PosteriorAnnealedLangevin", "Annealed Langevin Sampler",
            "Several small noisy steps at each noise level, from high to low. Slow and thorough; what Score-ALD is "
            "written for.",
            io.Int.Input(
                "corrections", default=5, min=1, max=1000, tooltip="Steps (model calls) at each level. Start with 5."
            ),
            io.Float.Input(
                "step_size", default=0.1, min=0.001, max=1.0, step=0.001, round=False,
                tooltip="Size of a step in units of the level's noise variance, above 0 and below 1 (no unit). Smaller is "
                "more exact and mixes more slowly. Start with 0.1.",
            ),
        )  # fmt: skip

    @classmethod
    def execute(cls, corrections, step_size, guidance=None) -> io.NodeOutput:
        return io.NodeOutput(GuidedSampler(guidance or (), AnnealedLangevin(corrections, step_size)))


class PredictorCorrectorNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return sampler_schema(
            "PosteriorPredictorCorrector", "Predictor-Corrector Sampler",
            "A DDIM step down, then a few Langevin steps that repair its error at the new noise level.",
            io.Float.Input(
                "eta", default=1.0, min=0.0, max=10.0, step=0.01,
                tooltip="Fresh noise of the predictor: 0 none, 1 ancestral (no unit). Start with 1.",
            ),
            io.Int.Input(
                "corrections", default=1, min=0, max=100,
                tooltip="Langevin steps (model calls) after each predictor step. Start with 1.",
            ),
            io.Float.Input(
                "snr", default=0.16, min=0.001, max=1.0, step=0.001, round=False,
                tooltip="Signal-to-noise ratio of a Langevin step (no unit): larger moves more. Start with 0.16.",
            ),
        )  # fmt: skip

    @classmethod
    def execute(cls, eta, corrections, snr, guidance=None) -> io.NodeOutput:
        return io.NodeOutput(GuidedSampler(guidance or (), PredictorCorrector(corrections, snr, eta)))


NODES = [GuidedODENode, GuidedSDENode, AnnealedLangevinNode, PredictorCorrectorNode]
