"""More samplers: ODE and SDE solvers, Langevin, predictor-corrector. Each listens to any number of guidance blocks."""

from __future__ import annotations

from comfy_api.latest import io

from ..diffusion.schedule import AXES
from ..samplers.base import Sampler
from ..samplers.ddim import GuidedDDIM
from ..samplers.dpm import DPMSolver
from ..samplers.heun import Heun
from ..samplers.langevin import AnnealedLangevin, PredictorCorrector
from ..samplers.maruyama import EulerMaruyama
from .schema import SamplerNode, Setting, sampler_schema


class SolverNode(SamplerNode):
    """A choice among solvers of one equation."""

    SOLVERS: dict[str, Sampler]
    WORDS: str

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = list(cls.SOLVERS)
        return sampler_schema(
            *cls.HEAD, io.Combo.Input("solver", options=names, default=names[0], tooltip=cls.WORDS)
        )  # fmt: skip

    @classmethod
    def make(cls, solver) -> Sampler:
        return cls.SOLVERS[solver]


class GuidedODENode(SolverNode):
    SOLVERS = {"DPM-Solver++ 2M": DPMSolver(), "Heun": Heun(), "Euler": GuidedDDIM()}
    HEAD = (
        "PosteriorGuidedODE", "Guided ODE Sampler",
        "No fresh noise: the same seed gives the same picture, smoothly. Few steps are enough, 15 to 30.",
    )  # fmt: skip
    WORDS = (
        "DPM-Solver++ 2M: accurate at one model call a step. Heun: two calls a step, steadier. Euler: the plain one, "
        "DDIM. Start with DPM-Solver++ 2M."
    )


class GuidedSDENode(SolverNode):
    SOLVERS = {
        "DPM-Solver++ 2M": DPMSolver(stochastic=True),
        **{f"Euler-Maruyama {name}": EulerMaruyama(axis) for name, axis in AXES.items()},
    }
    HEAD = (
        "PosteriorGuidedSDE", "Guided SDE Sampler",
        "Fresh noise in each step, which corrects earlier errors and gives a more faithful spread of samples.",
    )  # fmt: skip
    WORDS = (
        "DPM-Solver++ 2M: good from 30 steps on. Euler-Maruyama: the textbook scheme on the VE, VP or flow time axis, "
        "for studies; needs 200 steps or more. Start with DPM-Solver++ 2M."
    )


class AnnealedLangevinNode(SamplerNode):
    METHOD = AnnealedLangevin
    HEAD = (
        "PosteriorAnnealedLangevin", "Annealed Langevin Sampler",
        "Several small noisy steps at each noise level, from high to low. Slow and thorough; what Score-ALD is "
        "written for.",
    )  # fmt: skip
    SETTINGS = (
        Setting("corrections", "Steps (model calls) at each level. Start with 5.", 1, 1000),
        Setting(
            "size", id="step_size", least=0.001, most=1.0, step=0.001, fine=True,
            tooltip="Size of a step in units of the level's noise variance, above 0 and below 1 (no unit). Smaller is "
            "more exact and mixes more slowly. Start with 0.1.",
        ),
    )  # fmt: skip


class PredictorCorrectorNode(SamplerNode):
    METHOD = PredictorCorrector
    HEAD = (
        "PosteriorPredictorCorrector", "Predictor-Corrector Sampler",
        "A DDIM step down, then a few Langevin steps that repair its error at the new noise level.",
    )  # fmt: skip
    SETTINGS = (
        Setting(
            "amount", id="eta", least=0.0, most=10.0, step=0.01,
            tooltip="Fresh noise of the predictor: 0 none, 1 ancestral (no unit). Start with 1.",
        ),
        Setting("corrections", "Langevin steps (model calls) after each predictor step. Start with 1.", 0, 100),
        Setting(
            "snr", least=0.001, most=1.0, step=0.001, fine=True,
            tooltip="Signal-to-noise ratio of a Langevin step (no unit): larger moves more. Start with 0.16.",
        ),
    )  # fmt: skip


NODES = [GuidedODENode, GuidedSDENode, AnnealedLangevinNode, PredictorCorrectorNode]
