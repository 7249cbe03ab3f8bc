"""The registry of likelihood guidance: every method, with its dense formula where it is a conditional denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from posterior.diffusion.level import Level
from posterior.guidance.base import Guidance
from posterior.guidance.ddnm import DDNM
from posterior.guidance.ddpg import DDPG
from posterior.guidance.ddrm import DDRM
from posterior.guidance.dds import DDS
from posterior.guidance.diffpir import DiffPIR
from posterior.guidance.dps import DPS, DPSGaussian
from posterior.guidance.dsg import DSG
from posterior.guidance.general import General
from posterior.guidance.lgd import LGDMC
from posterior.guidance.mcg import MCG
from posterior.guidance.mmps import MMPS
from posterior.guidance.mpgd import MPGD
from posterior.guidance.pigdm import PiGDM, PiGDMPublished
from posterior.guidance.projection import NoisedProjection
from posterior.guidance.score_ald import ScoreALD, ScoreALDNormalised
from posterior.guidance.snips import SNIPS
from posterior.guidance.stsl import STSL
from posterior.guidance.tmpd import TMPD
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.dense import Dense
from posterior.priors.gaussian import Gaussian

F64 = torch.float64
LEVELS = {"high": Level(1.0, 5.0), "low": Level(1.0, 0.2), "flow": Level(0.6, 0.4)}
#: where the step goes to
NEXT = {"high": Level(1.0, 3.0), "low": Level(1.0, 0.03), "flow": Level(0.75, 0.25)}


class Dense64(NamedTuple):
    """Everything a dense formula may use, for one sample: vectors and matrices in float64.

    The noise differs from entry to entry of y where sigma is a vector; `scatter` is what it is at A m, where that
    differs.
    """

    x: Tensor
    m: Tensor
    V: Tensor
    A: Tensor
    y: Tensor
    sigma: float | Tensor
    t: Level
    s: Level
    scatter: float | Tensor | None = None

    @property
    def r(self) -> Tensor:
        return self.y - self.A @ self.m

    @property
    def white(self) -> float:
        return self.t.sigma**2 / (self.t.alpha**2 + self.t.sigma**2)

    @property
    def bar(self) -> float:
        return self.t.sigma / self.t.alpha

    @property
    def variance(self) -> Tensor:
        return torch.as_tensor(self.sigma, dtype=F64).expand(len(self.y)) ** 2

    @property
    def steepest(self) -> Tensor:
        """-grad norm(W (y - A m)) with W = 1 / sigma, scaled so that equal noise is W = I."""
        weight = 1 / self.variance.sqrt() if isinstance(self.sigma, Tensor) else torch.ones_like(self.y)
        weight = weight * len(weight) ** 0.5 / weight.norm()
        return self.A.T @ (weight**2 * self.r) / (weight * self.r).norm()

    @property
    def score(self) -> Tensor:
        """A^T r / sigma^2, sigma being that at A m."""
        scatter = self.sigma if self.scatter is None else self.scatter
        return self.A.T @ (self.r / torch.as_tensor(scatter, dtype=F64) ** 2)

    def whitened(self) -> Dense64:
        """In units of the noise, where there is any."""
        deviation = self.variance.sqrt()
        if not deviation.all():
            return self
        return self._replace(A=self.A / deviation[:, None], y=self.y / deviation, sigma=1.0)

    def evidence(self, variance: float | Tensor) -> Tensor:
        """(A variance A^T + sigma_y^2 I)^-1."""
        inner = variance if isinstance(variance, Tensor) else variance * torch.eye(len(self.m), dtype=F64)
        return torch.linalg.inv(self.A @ inner @ self.A.T + self.variance.diag())


@dataclass(frozen=True)
class Row:
    """A method: how it is made, and x0_hat(y) (or the after-step shift) in dense algebra; None where it has neither."""

    name: str
    make: Callable[[Measurement], Guidance]
    x0: Callable[[Dense64], Tensor] | None = None
    shift: Callable[[Dense64], Tensor] | None = None
    clean: bool = False


def _ald_normalised(d: Dense64) -> Tensor:
    lifted = d.A.T @ (d.y - d.A @ d.x / d.t.alpha)
    score = (d.t.alpha * d.m - d.x) / d.t.sigma**2
    gradient = 0.7 * score.norm() * lifted / lifted.norm()
    return d.m + d.t.sigma**2 / d.t.alpha * gradient


def _ald(d: Dense64, gamma2: float) -> Tensor:
    return d.m + d.bar**2 * d.A.T @ ((d.y - d.A @ d.x / d.t.alpha) / (d.variance + gamma2))


def _directions(d: Dense64, weight: Callable[[Tensor], Tensor]) -> Tensor:
    """m plus weights on y_bar - V^T m in the measured directions, by their singular values in units of the noise."""
    d = d.whitened()
    u, s, vh = torch.linalg.svd(d.A, full_matrices=False)
    seen = s > 1e-9
    u, s, vh = u[:, seen], s[seen], vh[seen]
    return d.m + vh.T @ (weight(s) * (u.T @ d.y / s - vh @ d.m))


def _diffpir(d: Dense64, variance: float) -> Tensor:
    d, rho = d.whitened(), 1.5 / variance
    return torch.linalg.solve(d.A.T @ d.A + rho * torch.eye(len(d.m), dtype=F64), d.A.T @ d.y + rho * d.m)


def _ddpg(d: Dense64, gamma: float = 2.0, eta: float = 0.3) -> Tensor:
    A, r, variance = d.A, d.r, d.sigma**2
    if isinstance(d.sigma, Tensor):  # in units of the noise
        A, r, variance = A / d.sigma[:, None], r / d.sigma, 1.0
    share = (d.s.alpha**2 / (d.s.alpha**2 + d.s.sigma**2)) ** gamma if variance else 0.0
    inverse = A.T @ torch.linalg.solve(A @ A.T + max(1e-4, eta * variance) * torch.eye(len(r), dtype=F64), r)
    return d.m + (1 - share) * inverse + share * A.T @ r / torch.linalg.matrix_norm(A, 2) ** 2


def _tmpd(d: Dense64) -> Tensor:
    rows = (d.A @ d.V @ d.A.T).sum(1).clamp_min(0)
    return d.m + d.V @ d.A.T @ (d.r / (rows + d.variance))


def _jacobian(d: Dense64) -> Tensor:
    return d.t.alpha / d.t.sigma**2 * d.V


def _norm(d: Dense64) -> float:
    return math.hypot(d.t.alpha, d.t.sigma)


ROWS = [
    Row("Score-ALD", ScoreALD, lambda d: _ald(d, d.bar**2)),
    Row("Score-ALD constant", lambda m: ScoreALD(m, 0.5, "constant"), lambda d: _ald(d, 0.25)),
    Row("Score-ALD normalised", lambda m: ScoreALDNormalised(m, 0.7), _ald_normalised),
    Row("DPS", lambda m: DPS(m, 0.3), shift=lambda d: 0.6 * _norm(d) * _jacobian(d).T @ d.steepest),
    Row("STSL", lambda m: STSL(m, 0.3), shift=lambda d: 0.6 * _norm(d) * _jacobian(d).T @ d.steepest),
    Row(
        "DPS without Jacobian", lambda m: DPS(m, 0.3, False),
        shift=lambda d: 0.6 * _norm(d) * d.t.alpha / d.t.sigma**2 * d.white * d.steepest,
    ),
    Row("DPS Gaussian", DPSGaussian, lambda d: d.m + d.V @ d.score),
    Row(
        "DPS Gaussian without Jacobian", lambda m: DPSGaussian(m, jacobian=False),
        lambda d: d.m + d.white * d.score,
    ),
    Row("Pi-GDM", PiGDM, lambda d: d.m + d.V @ d.A.T @ d.evidence(d.white) @ d.r),
    Row(
        "Pi-GDM without Jacobian", lambda m: PiGDM(m, jacobian=False),
        lambda d: d.m + d.white * d.A.T @ d.evidence(d.white) @ d.r,
    ),
    Row(
        "Pi-GDM published", PiGDMPublished,
        shift=lambda d: d.t.alpha * d.white * _jacobian(d).T @ d.A.T @ d.evidence(d.white) @ d.r,
    ),
    Row("MMPS", lambda m: MMPS(m, 200), lambda d: d.m + d.V @ d.A.T @ d.evidence(d.V) @ d.r),
    Row("TMPD", TMPD, _tmpd),
    Row("DDNM", DDNM, lambda d: _directions(d, torch.ones_like), clean=True),
    Row(
        "DDNM+", DDNM, lambda d: _directions(d, lambda s: (s * d.s.sigma / d.s.alpha).clamp_max(1)),
    ),
    Row("DiffPIR", lambda m: DiffPIR(m, 1.5), lambda d: _diffpir(d, d.bar**2)),
    Row("DiffPIR bounded", lambda m: DiffPIR(m, 1.5, 1.0), lambda d: _diffpir(d, d.white)),
    Row(
        "DDS", lambda m: DDS(m, 100, 4.0),
        lambda d: torch.linalg.solve(torch.eye(len(d.m), dtype=F64) + 4 * d.A.T @ d.A, d.m + 4 * d.A.T @ d.y),
    ),
    Row("DDS clean", lambda m: DDS(m, 100), lambda d: _directions(d, torch.ones_like), clean=True),
    Row(
        "MPGD", lambda m: MPGD(m, 0.1), lambda d: d.m + 0.2 * _norm(d) / d.t.alpha * d.steepest,
    ),
    Row(
        "LGD-MC", lambda m: LGDMC(m, 0.3, deviation=1e-9),
        shift=lambda d: 0.6 * _norm(d) * _jacobian(d).T @ d.steepest,
    ),
    Row("SNIPS", SNIPS, lambda d: _directions(d, lambda s: (s * d.bar).square().clamp_max(1))),
    Row("SNIPS clean", SNIPS, lambda d: _directions(d, torch.ones_like), clean=True),
    Row("General, Score-ALD", lambda m: General(m, "state", "adjoint", "variance", 1.0), lambda d: _ald(d, d.bar**2)),
    Row(
        "General, DPS", lambda m: General(m, "prediction", "jacobian", "variance", 0.0),
        lambda d: d.m + d.V @ d.A.T @ (d.r / d.variance),
    ),
    Row(
        "General, DDNM", lambda m: General(m, "prediction", "pinv", "variance", 1.0),
        lambda d: _directions(d, torch.ones_like), clean=True,
    ),
    Row(
        "General, constant", lambda m: General(m, "prediction", "adjoint", "constant", 2.0),
        lambda d: d.m + d.bar**2 * d.A.T @ d.r / 2,
    ),
    Row(
        "General, norm", lambda m: General(m, "prediction", "adjoint", "norm", 2.0),
        lambda d: d.m + d.bar**2 * d.A.T @ d.r / (2 * d.r.norm()),
    ),
    Row("DDPG", lambda m: DDPG(m, 2.0, 0.3), _ddpg),
    Row("DDPG clean", DDPG, _ddpg, clean=True),
    Row("MCG", lambda m: MCG(m, 0.3), clean=True),
    Row("Noised projection", NoisedProjection, clean=True),
    Row("DDRM", DDRM),
    Row("DDRM clean", DDRM, clean=True),
    Row("DSG", DSG),
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The matrices are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_prior(side: int, seed: int = 0) -> Gaussian:
    """N(mu, C) with a random C whose eigenvalues spread over two decades, `1 side side`, float64."""
    g = torch.Generator().manual_seed(seed)
    n = side * side
    basis = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=F64))[0]
    covariance = basis @ torch.diag(torch.logspace(-1.5, 0.5, n, dtype=F64)) @ basis.T
    return Gaussian.from_covariance(torch.randn(1, side, side, generator=g, dtype=F64), covariance)


def matrices(side: int, seed: int = 1) -> dict[str, Tensor]:
    """A mask, a blur (circulant, ill-conditioned) and a random matrix as dense A."""
    g = torch.Generator().manual_seed(seed)
    n = side * side
    eye = torch.eye(n, dtype=F64)
    line = torch.tensor([0.25, 0.5, 0.25], dtype=F64)
    circulant = sum(w * torch.eye(side, dtype=F64).roll(k, 0) for w, k in zip(line, (-1, 0, 1), strict=True))
    return {
        "mask": eye[torch.randperm(n, generator=g)[: n // 2]],
        "blur": torch.kron(circulant, circulant),
        "random": torch.randn(n // 2, n, generator=g, dtype=F64) / n**0.5,
    }


def measure(prior: Gaussian, matrix: Tensor, sigma: float, seed: int = 3) -> Measurement:
    """y of a draw of the prior."""
    operator = Dense(matrix, tuple(prior.mean.shape))
    return Measurement.simulate(operator, prior.sample(1, seed), GaussianNoise(sigma), seed)
