"""Every sampler once: what the parametrised tests run over. A new sampler adds its row here."""

from __future__ import annotations

from dataclasses import dataclass

from posterior.diffusion.schedule import AXES
from posterior.operators.families import Exposure
from posterior.samplers.annealed import AnnealedRestoration
from posterior.samplers.base import Sampler
from posterior.samplers.blind import Blind
from posterior.samplers.blind_gibbs import BlindSplitGibbs
from posterior.samplers.blind_red_diff import BlindREDDiff
from posterior.samplers.cm4ir import CM4IR
from posterior.samplers.daps import DAPS
from posterior.samplers.dcps import DCPS
from posterior.samplers.ddim import GuidedDDIM
from posterior.samplers.dpm import DPMSolver
from posterior.samplers.flair import FLAIR
from posterior.samplers.flow_dps import TRIPS, FlowDPS
from posterior.samplers.heun import Heun
from posterior.samplers.langevin import AnnealedLangevin, PredictorCorrector
from posterior.samplers.latino import LATINO
from posterior.samplers.map_estimate import MAPEstimate
from posterior.samplers.maruyama import EulerMaruyama
from posterior.samplers.measured_noise import MeasuredNoise
from posterior.samplers.mgps import MGPS
from posterior.samplers.noise_space import NoiseSpace
from posterior.samplers.pmc import PMC
from posterior.samplers.red_diff import REDDiff
from posterior.samplers.score_prior import ScorePrior
from posterior.samplers.split_gibbs import SplitGibbs
from posterior.samplers.unknown import Unknown
from posterior.samplers.variational import VariationalGaussian


@dataclass(frozen=True)
class Row:
    """One sampler.

    Args:
        name: of the test.
        sampler: with settings that suit tiny problems.
        measured: whether it brings the measurement in by its own means; the others listen to blocks.
    """

    name: str
    sampler: Sampler
    measured: bool = False

    def __str__(self) -> str:
        return self.name


GAIN = Exposure(offset=False)

SAMPLERS = [
    Row("ddim", GuidedDDIM()),
    Row("ancestral ddim", GuidedDDIM(1.0)),
    Row("ddim with time travel", GuidedDDIM(1.0, repeats=2, jump=2)),
    Row("heun", Heun()),
    Row("dpm-solver", DPMSolver()),
    Row("dpm-solver of the SDE", DPMSolver(stochastic=True)),
    Row("annealed restoration", AnnealedRestoration()),
    Row("euler-maruyama", EulerMaruyama(AXES["flow"])),
    Row("annealed langevin", AnnealedLangevin(2, 0.1)),
    Row("predictor-corrector", PredictorCorrector(1, 0.1)),
    Row("split gibbs", SplitGibbs(3, 2), measured=True),
    Row("daps", DAPS(3), measured=True),
    Row("pmc", PMC("PnP", 100), measured=True),
    Row("mgps", MGPS(iterations=3, rate=0.1), measured=True),
    Row("dcps", DCPS(rate=0.3), measured=True),
    Row("red-diff", REDDiff(0.25, 0.3), measured=True),
    Row("variational gaussian", VariationalGaussian(5, 20, 0.1), measured=True),
    Row("map estimate", MAPEstimate(2), measured=True),
    Row("noise space", NoiseSpace(60, 0.1), measured=True),
    Row("noise space on its shell", NoiseSpace(60, 0.1, 0.01, 0.05), measured=True),
    Row("cm4ir", CM4IR(), measured=True),
    Row("score prior", ScorePrior(60, 4, 0.01, 2), measured=True),
    Row("blind ddim", Blind(Unknown(GAIN, noise=True)), measured=True),
    Row("blind split gibbs", BlindSplitGibbs(Unknown(GAIN, update="draw", spread=0.1), 3, 2), measured=True),
    Row("blind red-diff", BlindREDDiff(Unknown(GAIN), 0.25, 0.3), measured=True),
    Row("latino", LATINO(), measured=True),
    Row("flowdps", FlowDPS(), measured=True),
    Row("trips-t", TRIPS, measured=True),
    Row("flair", FLAIR(), measured=True),
    Row("measured noise", MeasuredNoise(0.3, 0.3)),
]
