"""Noise with neighbours: its law, whitening, and what sampling makes of it, against dense algebra."""

from __future__ import annotations

import pytest
import scipy.ndimage
import torch
from guidance_rows import F64, one_thread, random_prior  # noqa: F401
from torch import Tensor

from posterior.algebra.refusal import Refusal
from posterior.algebra.streams import Streams
from posterior.algebra.transforms import dct
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.guidance.base import Guidance
from posterior.guidance.ddnm import DDNM
from posterior.guidance.ddrm import DDRM
from posterior.guidance.diffpir import DiffPIR
from posterior.guidance.dps import DPSGaussian
from posterior.guidance.mmps import MMPS
from posterior.guidance.pigdm import PiGDM
from posterior.guidance.snips import SNIPS
from posterior.guidance.tmpd import TMPD
from posterior.measurement.coloured_noise import ColouredNoise, blotches
from posterior.measurement.measurement import Measurement, combine
from posterior.measurement.noise import ROUNDING, GaussianNoise
from posterior.measurement.whiteness import whiteness
from posterior.operators import kernels
from posterior.operators.convolution import CircularConvolution, SymmetricConvolution, convolution
from posterior.operators.dense import Dense
from posterior.operators.downscale import downscale
from posterior.operators.families import Exposure
from posterior.operators.identity import Identity, Scale
from posterior.operators.inpainting import Inpainting
from posterior.operators.jpeg import JPEG
from posterior.operators.spectral import SpectralOperator
from posterior.priors.gaussian import Gaussian, dense_matrix
from posterior.samplers.ddim import GuidedDDIM
from posterior.samplers.split_gibbs import SplitGibbs
from posterior.samplers.unknown import Search, Unknown

SIZE = (4, 4)


def spectrum(*shape: int, seed: int = 0) -> Tensor:
    return 0.02 + torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def covariance(noise: ColouredNoise) -> Tensor:
    """S of noise in one colour, by the transform of every unit vector."""
    h, w = noise.spectrum.shape[-2:]
    T = dct(torch.eye(h * w, dtype=F64).reshape(-1, 1, h, w)).flatten(1).T
    variance = torch.as_tensor(noise.variance, dtype=F64).expand(1, 1, h, w).flatten()
    return T.T @ torch.diag(noise.spectrum.flatten().to(F64)) @ T + torch.diag(variance)


OPERATORS = {
    "noise only": Identity(), "scale": Scale(0.7),
    "blur": SymmetricConvolution(kernels.gaussian(0.6).double()[..., 2:-2, 2:-2]),
    "circular": CircularConvolution(torch.tensor([[0.2, 0.5, 0.3]], dtype=F64)[None, None]),
    "shake": convolution(torch.tensor([[0.2, 0.5, 0.3]], dtype=F64)[None, None]),
    "reduced": downscale(2, "box"), "mask": Inpainting((torch.arange(16).reshape(1, 1, 4, 4) % 5 == 1).double()),
}  # fmt: skip
operators = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


def measured(operator, prior: Gaussian, seed: int = 3) -> Measurement:
    clean = operator.forward(prior.sample(1, seed))
    return Measurement.simulate(operator, prior.sample(1, seed), ColouredNoise(spectrum(1, *clean.shape[1:])), seed)


def law(measurement: Measurement) -> tuple[Tensor, Tensor, Tensor]:
    """A, y and S, of what was measured."""
    support = measurement.operator.support(measurement.y)
    seen = slice(None) if support is None else support.flatten() > 0
    matrix = dense_matrix(measurement.operator, measurement.image_shape, measurement.y)
    noise = measurement.noise
    if support is None:
        S = covariance(noise)
    else:  # far from the borders: what is predicted from what was seen
        h, w = measurement.y.shape[-2:]
        table, place = noise.covariance(max(h, w))[0, 0], torch.cartesian_prod(torch.arange(h), torch.arange(w))
        apart = place[:, None] - place + max(h, w)
        S = table[apart[..., 0], apart[..., 1]]
    return matrix[seen], measurement.y.flatten()[seen], S[seen][:, seen]


def test_its_samples_have_its_covariance():
    noise, count = ColouredNoise(spectrum(1, 1, *SIZE), torch.linspace(0, 0.5, 4, dtype=F64)), 20000
    z = noise.sample(torch.zeros(count, 1, *SIZE, dtype=F64), 1).flatten(1)
    S = covariance(noise)
    assert (z.T.cov() - S).abs().max() < 5 * (2 / count) ** 0.5 * S.diag().max()
    assert torch.allclose(noise.sigma.expand(1, 1, *SIZE).square().mean(), S.diag().mean())


def test_blotches_are_blurred_white_noise():
    noise = blotches(0.08, 1.0, (12, 16), 0.01)
    units = torch.eye(12 * 16, dtype=F64).reshape(-1, 12, 16).numpy()
    blurred = [scipy.ndimage.gaussian_filter(unit, 1.0, truncate=7) for unit in units]
    K = torch.stack([torch.from_numpy(column).flatten() for column in blurred])
    S = K @ K.T
    S = 0.08**2 * S / S.diag().mean() + 0.01**2 * torch.eye(len(S), dtype=F64)
    assert (covariance(noise) - S).abs().max() < 1e-3 * 0.08**2  # a sampled Gaussian is not quite one
    assert noise.sigma.item() == pytest.approx((0.08**2 + 0.01**2) ** 0.5, rel=1e-5)
    assert blotches(0.08, 0.0, (12, 16)).floor == pytest.approx((0.08**2 + ROUNDING**2) ** 0.5, rel=1e-5)


@operators
def test_whitening_leaves_the_likelihood(operator):
    """norm(A' x - y')^2 / c^2 = r^T S^-1 r, and the posterior is that of dense algebra."""
    prior = random_prior(4)
    measurement = measured(operator, prior)
    white, (A, y, S) = measurement.whitened(), law(measurement)
    x = prior.sample(1, 9)
    r = y - A @ x.flatten()
    energy = (white.residual(x) / white.noise.sigma).square().sum()
    assert energy.item() == pytest.approx((r @ torch.linalg.solve(S, r)).item(), rel=1e-8)
    assert measurement.fit(x).item() == pytest.approx((energy / len(r)).sqrt().item())
    C, mean = prior.covariance(), prior.mean.flatten()
    gain = C @ A.T @ torch.linalg.inv(A @ C @ A.T + S)
    found = prior.posterior(white)
    assert torch.allclose(found.mean.flatten(), mean + gain @ (y - A @ mean), atol=1e-8)
    assert torch.allclose(found.covariance(), C - gain @ A @ C, atol=1e-8)
    exact = torch.distributions.MultivariateNormal(A @ mean, A @ C @ A.T + S).log_prob(y)
    assert prior.log_evidence(white).item() == pytest.approx(exact.item(), abs=1e-6)


@operators
def test_the_step_of_every_solver_is_exact(operator):
    """prox in the whitened measurement: argmin r^T S^-1 r / 2 + rho norm(x - z)^2 / (2 c^2)."""
    prior = random_prior(4)
    measurement = measured(operator, prior)
    white, (A, y, S) = measurement.whitened(), law(measurement)
    z, rho = prior.sample(1, 8), 0.3
    Q = torch.linalg.inv(S) * white.noise.sigma**2
    expected = torch.linalg.solve(A.T @ Q @ A + rho * torch.eye(16, dtype=F64), A.T @ Q @ y + rho * z.flatten())
    assert torch.allclose(white.operator.prox(z, white.y, rho).flatten(), expected, atol=1e-6)


def test_a_mask_s_step_is_exact_in_pictures_larger_than_predictions_reach():
    """Noise with hardly anything white; far from mirrored borders its covariance depends on the distance only."""
    noise = blotches(0.08, 1.0, (24, 24))
    noise = ColouredNoise(noise.spectrum.double())
    hole = torch.zeros(1, 1, 24, 24, dtype=F64)
    hole[..., 5:8, 4:20] = 1
    known = hole.flatten() == 0
    y, z = (
        noise.sample(0.5 - 0.5 * hole.expand(2, 3, -1, -1), 1) * (1 - hole),
        torch.full((2, 3, 24, 24), 0.45, dtype=F64),
    )
    seen = Measurement(Inpainting(hole), y, noise).whitened()
    assert seen.operator.outer.predictors.shape[:2] == (1, 1)  # the same for all pictures and colours
    S = noise.covary(torch.eye(24 * 24, dtype=F64).reshape(-1, 1, 24, 24)).flatten(1)[known][:, known]
    for rho in (1e-4, 1e-2):
        x = seen.operator.prox(z, seen.y, rho)
        step = torch.linalg.solve(
            torch.eye(len(S), dtype=F64) + rho / noise.floor**2 * S, (y - z).flatten(2)[..., known].mT
        )
        assert torch.allclose((x - z).flatten(2)[..., known], step.mT, atol=1e-3)
        assert torch.equal(x * hole, z * hole)


def test_a_blur_stays_spectral():
    prior = random_prior(4)
    for name in ("noise only", "scale", "blur"):
        assert isinstance(measured(OPERATORS[name], prior).whitened().operator, SpectralOperator)
    assert measured(OPERATORS["circular"], prior).whitened().operator.nearby is not None


def karras(steps: int, low: float = 2e-2) -> list[Level]:
    ramp = torch.linspace(60 ** (1 / 7), low ** (1 / 7), steps, dtype=F64) ** 7
    return [Level(1.0, sigma) for sigma in ramp.tolist()] + [Level(1.0, 0.0)]


@pytest.mark.parametrize("name", ["blur", "circular", "mask"])
def test_mmps_reaches_the_posterior(name):
    """eta = 0 is an affine map of x_T, whose moments need no samples."""
    prior = random_prior(4)
    measurement = measured(OPERATORS[name], prior)
    A, y, S = law(measurement)
    C, mean = prior.covariance(), prior.mean.flatten()
    gain = C @ A.T @ torch.linalg.inv(A @ C @ A.T + S)
    starts = torch.cat([torch.eye(16, dtype=F64), torch.zeros(1, 16, dtype=F64)]).reshape(-1, 1, *SIZE)
    ends = GuidedDDIM()(Run(prior.denoiser, karras(128), [MMPS(measurement, 16)]), starts).flatten(1)
    M = (ends[:-1] - ends[-1]).T
    covariance = M @ (C + 3600 * torch.eye(16, dtype=F64)) @ M.T
    exact, centre = C - gain @ A @ C, gain @ (y - A @ mean)
    assert (M @ mean + ends[-1] - mean - centre).norm() < 0.05 * centre.norm()  # of order 1 / steps
    assert (covariance - exact).norm() < 0.05 * exact.norm()


def test_split_gibbs_draws_from_the_posterior():
    prior, count, rho = random_prior(4), 2000, 0.4
    measurement = measured(OPERATORS["mask"], prior)
    A, y, S = law(measurement)
    S = S + rho**2 * A @ A.T
    C, mean = prior.covariance(), prior.mean.flatten()
    gain = C @ A.T @ torch.linalg.inv(A @ C @ A.T + S)
    levels = [Level(1.0, sigma) for sigma in (4.0, 1.0, rho)] + [Level(1.0, 0.0)]
    start = 4 * torch.randn(count, 1, *SIZE, dtype=F64, generator=torch.Generator().manual_seed(3))
    run = Run(prior.denoiser, levels, [Guidance(measurement)], Streams(4, "sampling"))
    x = SplitGibbs(inner=12, hold=20)(run, start).flatten(1)
    variance = (C - gain @ A @ C).diag()
    # five standard errors, and what short chains leave
    assert ((x.mean(0) - mean - gain @ (y - A @ mean)).abs() < (5 * count**-0.5 + 0.1) * variance.sqrt()).all()
    assert ((x.var(0) / variance - 1).abs() < 5 * (2 / count) ** 0.5 + 0.1).all()


@pytest.mark.parametrize("make", [DiffPIR, PiGDM, MMPS, DDNM, DDRM, SNIPS, DPSGaussian])
def test_any_whitening_is_as_good(make):
    """Methods that depend on A^T S^-1 A and A^T S^-1 y alone: the same steps by Cholesky's factor of S, densely."""
    prior, operator = random_prior(4), OPERATORS["blur"]
    measurement = measured(operator, prior)
    A, y, S = law(measurement)
    factor, c = torch.linalg.cholesky(S), measurement.noise.floor
    dense = Dense(c * torch.linalg.solve_triangular(factor, A, upper=False), (1, *SIZE))
    white = Measurement(dense, c * torch.linalg.solve_triangular(factor, y[:, None], upper=False).T, GaussianNoise(c))
    ends = []
    for each in (measurement, white):
        run = Run(prior.denoiser, karras(6), [make(each)], Streams(1, "sampling"))
        ends.append(GuidedDDIM()(run, 60 * torch.ones(1, 1, *SIZE, dtype=F64)))
    assert torch.allclose(*ends, rtol=1e-6, atol=1e-6)


def test_what_an_unknown_damage_sees():
    """The exposure a of y = a x + n, by least squares: a = x^T S^-1 y / x^T S^-1 x."""
    clean = 0.5 + 0.1 * random_prior(4).sample(1, 2)
    noise = ColouredNoise(0.01 * spectrum(1, 1, *SIZE))
    y, S = noise.sample(0.6 * clean, 1), covariance(noise)
    seen = Guidance(Measurement(Identity(), y, noise)).measurement
    search = Search(Unknown(Exposure(offset=False)), seen, clean, Streams(0, "test"))
    search.update(clean)
    Q, x = torch.linalg.inv(S), clean.flatten()
    assert search.theta.item() == pytest.approx((x @ Q @ y.flatten() / (x @ Q @ x)).item(), rel=1e-4)
    assert search.measurement().fit(clean).item() == pytest.approx(1, abs=0.6)


@pytest.mark.parametrize("make", [DiffPIR, PiGDM, TMPD, DDRM])
def test_white_coloured_noise_is_white_noise(make):
    """A level spectrum gives what Gaussian noise gives."""
    prior, operator = random_prior(4), OPERATORS["blur"]
    y = measured(operator, prior).y
    ends = []
    for noise in (ColouredNoise(torch.full((1, 1, *SIZE), 0.09, dtype=F64)), GaussianNoise(0.3)):
        run = Run(prior.denoiser, karras(6), [make(Measurement(operator, y, noise))], Streams(1, "sampling"))
        ends.append(GuidedDDIM(1.0)(run, 60 * torch.ones(1, 1, *SIZE, dtype=F64)))
    assert torch.allclose(*ends, atol=1e-6)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_right_noise_fits_and_is_white(name):
    clean = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    operator = OPERATORS[name] if name != "mask" else Inpainting((torch.rand(1, 1, 64, 64) < 0.2).float())
    operator = operator.to("cpu", torch.float32)
    size = tuple(operator.forward(clean).shape[-2:])
    measurement = Measurement.simulate(operator, clean, blotches(0.08, 0.7, size, 0.02), 2)
    n = measurement.y.numel()
    # what lies further away than the predictors reach, and mirrored borders, are worth a hundredth
    assert measurement.fit(clean).item() == pytest.approx(1, abs=5 / (2 * n) ** 0.5 + 0.01 * (name == "mask"))
    assert whiteness(measurement, clean).p_value.min() > 1e-4


def test_soft_edges_maps_and_files():
    noise = blotches(0.08, 1.0, (32, 32))
    soft = torch.zeros(1, 1, 32, 32)
    soft[..., 8:16, 8:16], soft[..., 7, 8:16] = 1.0, 0.4
    measurement = Measurement.observe(Inpainting(soft), torch.rand(1, 3, 32, 32), noise)
    gain = measurement.whitened().operator.outer.gain
    assert gain[0, 0, 7, 10] < 0.5 * gain[0, 0, 3, 3] and gain[0, 0, 10, 10] == 0
    jpeg = Measurement.observe(JPEG(50), torch.rand(1, 3, 32, 32), noise)
    assert jpeg.fit(torch.rand(1, 3, 32, 32)).isfinite().all()
    both = combine([measurement, Measurement.observe(Identity(), torch.rand(1, 3, 32, 32), GaussianNoise(0.05))])
    assert both.fit(torch.rand(1, 3, 32, 32)).isfinite().all()
    few = Measurement(Identity(), torch.rand(3, 3, 32, 32), ColouredNoise(noise.spectrum.expand(3, -1, -1, -1)))
    assert few.take(torch.tensor([1])).whitened().y.shape == (1, 3, 32, 32)


def test_what_cannot_be_is_refused():
    with pytest.raises(Refusal, match="not positive"):
        ColouredNoise(torch.zeros(1, 1, 4, 4))
    with pytest.raises(Refusal, match="32 x 32"):
        Measurement.observe(Identity(), torch.rand(1, 3, 40, 32), blotches(0.08, 1.0, (32, 32)))
