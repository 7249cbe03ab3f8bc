"""Variational and noise-space methods against closed forms on Gaussian priors, and against published algorithms."""

from __future__ import annotations

import math

import pytest
import torch
from guidance_rows import F64, matrices, measure, one_thread, random_prior  # noqa: F401

from posterior.algebra.streams import Streams
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.diffusion.schedule import Schedule
from posterior.guidance.base import Guidance
from posterior.guidance.ddnm import DDNM
from posterior.guidance.ddpg import DDPG
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.dense import Dense
from posterior.operators.inpainting import Inpainting
from posterior.samplers.cm4ir import CM4IR
from posterior.samplers.ddim import GuidedDDIM
from posterior.samplers.likelihood import LogLikelihood
from posterior.samplers.measured_noise import MeasuredNoise
from posterior.samplers.noise_space import NoiseSpace
from posterior.samplers.red_diff import REDDiff
from posterior.samplers.score_prior import RealNVP, ScorePrior
from posterior.samplers.variational import VariationalGaussian


def start(count: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(count, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(seed))


def test_red_diff_stands_where_its_two_pulls_are_equal():
    """A^T (A mu - y) + lambda (mu - E x0_hat(alpha mu + sigma n)) = 0, a linear system on a Gaussian prior."""
    prior, matrix, t, weight = random_prior(4), matrices(4)["random"], Level(0.8, 0.6), 0.25
    measurement = measure(prior, matrix, 0.1)
    levels = [t] * 400 + [Level(1.0, 0.0)]
    run = Run(prior.denoiser, levels, [Guidance(measurement)], Streams(1, "sampling", 1))
    mu = REDDiff(weight, 0.02)(run, start(300)).flatten(1).mean(0)
    C, m, eye = prior.covariance(), prior.mean.flatten(), torch.eye(16, dtype=F64)
    gain = t.alpha**2 * C @ torch.linalg.inv(t.alpha**2 * C + t.sigma**2 * eye)  # x0_hat(alpha mu) = m + gain (mu - m)
    fixed = torch.linalg.solve(
        matrix.T @ matrix + weight * (eye - gain), matrix.T @ measurement.y[0] + weight * (eye - gain) @ m
    )
    # 300 chains jitter by the rate, 0.02
    assert (mu - fixed).abs().max() < 0.02


def test_red_diff_follows_the_published_code():
    """Pictures in [-1, 1], losses as means, torch's own Adam on autograd's gradient; ours in [0, 1]."""
    g = torch.Generator().manual_seed(0)
    prior, matrix = random_prior(4), matrices(4)["random"]
    y = torch.randn(1, 8, dtype=F64, generator=g)
    bars = torch.linspace(0.2, 0.98, 12, dtype=F64)
    draws = Streams(5, "sampling", 2)
    mu = (torch.linalg.pinv(matrix) @ y[0]).reshape(1, 1, 4, 4).expand(2, -1, -1, -1).clone().requires_grad_()
    adam = torch.optim.Adam([mu], lr=0.1, betas=(0.9, 0.99))

    def eps_of(x: torch.Tensor, bar: torch.Tensor) -> torch.Tensor:
        x0 = prior.denoiser(x, Level(bar.sqrt().item(), (1 - bar).sqrt().item()))
        return (x - bar.sqrt() * x0) / (1 - bar).sqrt()

    for bar in bars:
        noise = draws.normal(mu.detach())
        x_t = bar.sqrt() * mu.detach() + (1 - bar).sqrt() * noise
        weight = (1 - bar).sqrt() / bar.sqrt()
        data = ((y - mu.flatten(1) @ matrix.T) ** 2).mean(1).sum() / 2
        regular = (((eps_of(x_t, bar) - noise) * mu).flatten(1).mean(1)).sum()
        adam.zero_grad()
        (data + 0.25 * weight * regular).backward()
        adam.step()

    native = Measurement(Dense(matrix, (1, 4, 4)), (y + matrix.sum(1)) / 2, GaussianNoise(1e-5))
    levels = [*(Level(1.0, ((1 - b) / b).sqrt().item() / 2, 2.0) for b in bars), Level(1.0, 0.0, 2.0)]
    by_sigma = {level.sigma: bar for level, bar in zip(levels, bars, strict=False)}

    def denoiser(u: torch.Tensor, t: Level) -> torch.Tensor:
        bar = by_sigma[t.sigma]
        x = bar.sqrt() * (2 * u - 1)
        return (prior.denoiser(x, Level(bar.sqrt().item(), (1 - bar).sqrt().item())) + 1) / 2

    run = Run(denoiser, levels, [Guidance(native)], Streams(5, "sampling", 2))
    ours = REDDiff(0.25, 0.1, "mean")(run, start(2))
    torch.testing.assert_close(2 * ours - 1, mu.detach(), rtol=1e-5, atol=1e-5)


def test_the_variational_gaussian_has_the_posteriors_mean_and_its_diagonal_precision():
    prior, matrix, sigma = random_prior(4), matrices(4)["mask"], 0.4
    measurement = measure(prior, matrix, sigma)
    precision = torch.linalg.inv(prior.covariance()) + matrix.T @ matrix / sigma**2
    levels = [*(Level(1.0, s) for s in (2.0, 1.0, 0.5, 0.2, 0.05)), Level(1.0, 0.0)]
    run = Run(prior.denoiser, levels, [Guidance(measurement)], Streams(1, "sampling", 1))
    mu = VariationalGaussian(inner=40, hold=600, rate=0.03)(run, start(64)).flatten(1)
    exact = prior.posterior(measurement)
    scale = exact.covariance().diag().sqrt()
    # each chain jitters by the last of its falling rates; 64 of them
    assert ((mu.mean(0) - exact.mean.flatten()).abs() < 0.1 * scale).all()
    s = run.record["standard deviation"].flatten(1).log().mean(0).exp()
    assert (s / precision.diag().rsqrt()).log().abs().max() < math.log(1.15)


@pytest.mark.parametrize("schedule", [Schedule(), Schedule("flow")], ids=["exploding", "flow"])
def test_the_map_of_the_noise_is_the_closed_form(schedule):
    """On a Gaussian prior R is affine, R(z) = M z + b: z = argmin norm(y - A(M z + b))^2 / (2 s^2) + norm(z)^2 / 2."""
    prior, matrix, sigma = random_prior(4), matrices(4)["random"], 0.5
    measurement = measure(prior, matrix, sigma)
    ratios = (3.0, 1.0, 0.3)
    levels = [*(schedule.at(ratio) for ratio in ratios), Level(1.0, 0.0)]
    units = torch.cat([torch.eye(16, dtype=F64), torch.zeros(1, 16, dtype=F64)]).reshape(-1, 1, 4, 4)
    ends = GuidedDDIM()(Run(prior.denoiser, levels), levels[0].sigma * units).flatten(1)
    M, b = (ends[:-1] - ends[-1]).T, ends[-1]
    AM = matrix @ M
    z = torch.linalg.solve(
        AM.T @ AM / sigma**2 + torch.eye(16, dtype=F64), AM.T @ (measurement.y[0] - matrix @ b) / sigma**2
    )
    run = Run(prior.denoiser, levels, [Guidance(measurement)], schedule=schedule)
    x0 = NoiseSpace(1500, 0.02, prior=1.0, stop=0.0)(run, levels[0].sigma * start(2))
    torch.testing.assert_close(x0.flatten(1), (M @ z + b).expand(2, -1), rtol=1e-3, atol=2e-3)  # Adam's own end
    assert len(run.record["residual / noise"]) == 1500


def test_a_sample_stops_at_the_noise_and_stays_on_the_shell():
    prior, matrix = random_prior(4), matrices(4)["random"]
    measurement = measure(prior, matrix, 0.3)
    levels = [Level(1.0, s) for s in (3.0, 1.0, 0.3, 0.0)]
    run = Run(prior.denoiser, levels, [Guidance(measurement)])
    x0 = NoiseSpace(600, 0.05)(run, 3 * start(3))
    fit = measurement.fit(x0)
    assert (fit <= 1).all() and len(run.record["residual / noise"]) < 600
    assert (fit > 0.9).all()  # it does not go on into the noise
    seen = []
    run = Run(prior.denoiser, levels, [Guidance(measurement)], report=lambda i, x, x0, t: seen.append(x))
    NoiseSpace(60, 0.2, shell=0.01, stop=0.0)(replace_first(run, seen), 3 * start(3))


def replace_first(run: Run, seen: list) -> Run:
    """A run whose prior notes the first states, and asserts that they lie on the shell."""
    plain = run.prior

    class Watched:
        def __call__(self, x, t):
            if t.sigma == 3.0 and seen:
                radius = x.flatten(1).norm(dim=1) / 3 / 4
                assert (radius - 1).abs().max() < 0.0101
            return plain(x, t)

        linearise = staticmethod(plain.linearise)

    run.prior = Watched()
    return run


def test_the_noise_is_measured_as_in_the_paper():
    """The universal inverse solver (its algorithm 2) with orthonormal rows, transcribed, the same noise."""
    prior, sigma_end, h0, beta = random_prior(4), 0.05, 0.2, 0.5
    basis = torch.linalg.qr(torch.randn(16, 6, dtype=F64, generator=torch.Generator().manual_seed(1)))[0]  # M
    seen = basis.T @ prior.sample(1, 4).flatten()
    draws, x = Streams(2, "sampling", 1), 3 * start(1).flatten()
    level, path = 3.0, []
    for k in range(1, 400):
        x0 = prior.denoiser(x.reshape(1, 1, 4, 4), Level(1.0, level)).flatten()
        f, project = x - x0, basis @ basis.T
        d = (torch.eye(16, dtype=F64) - project) @ f + project @ x - basis @ seen
        sigma = d.norm() / 4
        path.append(sigma.item())
        level = min(sigma.item(), 3.0)
        if sigma <= sigma_end:
            break
        h = h0 * k / (1 + h0 * (k - 1))
        gamma = sigma * ((1 - beta * h) ** 2 - (1 - h) ** 2) ** 0.5
        x = x - h * d + gamma * draws.normal(torch.zeros(1, 16, dtype=F64))[0]
    measurement = Measurement(Dense(basis.T, (1, 4, 4)), seen[None], GaussianNoise(0.0))
    levels = [Level(1.0, 3.0), Level(1.0, sigma_end), Level(1.0, 0.0)]
    run = Run(prior.denoiser, levels, [DDNM(measurement)], Streams(2, "sampling", 1))
    MeasuredNoise(h0, beta)(run, 3 * start(1))
    assert 5 < len(path) == len(run.record["measured noise"])
    assert run.record["measured noise"] == pytest.approx(path, rel=1e-8)


def test_measured_noise_listens_to_what_is_noisy():
    """Residual RMS / sigma_y over what was seen, by DDNM+ and by nothing."""
    prior, lost = random_prior(4), torch.zeros(1, 1, 4, 4, dtype=F64)
    lost[..., 2:] = 1
    measurement = Measurement.simulate(Inpainting(lost), prior.sample(1, 4), GaussianNoise(0.1), 0)
    levels = [Level(1.0, 3.0), Level(1.0, 0.05), Level(1.0, 0.0)]

    def fit(*blocks: Guidance) -> float:
        run = Run(prior.denoiser, levels, list(blocks), Streams(2, "sampling", 2))
        x = MeasuredNoise(0.2, 0.3)(run, 3 * start(2))
        return measurement.residual(x)[..., :2].square().mean().sqrt().item() / 0.1

    assert fit(DDNM(measurement)) < 1.2 and fit() > 5


@pytest.mark.parametrize("sigma", [0.2, 0.0], ids=["noisy", "clean"])
def test_cm4ir_follows_the_published_code(sigma):
    """Exploding states of pictures in [-1, 1], transcribed; the rounding of our inverse, 1e-4, is in it."""
    prior, matrix, levels = random_prior(4), matrices(4)["random"], [0.9, 0.7, 0.5, 0.3]
    eta, zeta, delta = 0.3, 2.0, 0.1
    y = torch.randn(1, 8, dtype=F64, generator=torch.Generator().manual_seed(0))
    inverse = matrix.T @ torch.linalg.inv(
        matrix @ matrix.T + max(zeta * sigma**2, 1e-4) * torch.eye(8, dtype=F64)
    )  # A_pinv_add_eta
    draws = Streams(5, "sampling", 2)
    noise = lambda: draws.normal(torch.zeros(2, 1, 4, 4, dtype=F64)).flatten(1)  # noqa: E731
    x = (y @ inverse.T).expand(2, -1) + levels[0] * noise()
    for k, b in enumerate(levels):
        x0 = prior.denoiser(x.reshape(2, 1, 4, 4), Level(1.0, (1 + delta) * b)).flatten(1)
        minus = (x0 - x) / b
        last = k == len(levels) - 1
        if sigma and last:
            x = x0
            break
        x = x0 - (x0 @ matrix.T - y) @ inverse.T
        if not last:
            x = x + levels[k + 1] * (eta * noise() + (1 - eta**2) ** 0.5 * minus)

    def denoiser(u: torch.Tensor, t: Level) -> torch.Tensor:
        return (prior.denoiser(2 * u - 1, Level(1.0, 2 * t.sigma)) + 1) / 2

    native = Measurement(Dense(matrix, (1, 4, 4)), (y + matrix.sum(1)) / 2, GaussianNoise(sigma / 2))
    walk = [Level(1.0, b / 2, 2.0) for b in (*levels, 0.0)]
    run = Run(denoiser, walk, [Guidance(native)], Streams(5, "sampling", 2))
    ours = CM4IR(eta, zeta, delta)(run, start(2))
    torch.testing.assert_close((2 * ours - 1).flatten(1), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_ddpg_is_a_back_projection_at_first_and_a_gradient_at_last(share):
    prior, matrix, sigma = random_prior(4), matrices(4)["blur"], 0.1
    measurement, x = measure(prior, matrix, sigma), start(2)
    block = DDPG(measurement, gamma=1e9 if share == 0 else 1e-9, eta=0.5)
    t, s = Level(1.0, 1.0), Level(1.0, 0.4)
    x0 = prior.denoiser(x, t)
    got = Run(prior.denoiser, [t, s], [block]).guided(x, t, s).x0.flatten(1)
    residual = x0.flatten(1) @ matrix.T - measurement.y
    eye = torch.eye(16, dtype=F64)
    inverse = residual @ torch.linalg.inv(matrix @ matrix.T + 0.5 * sigma**2 * eye) @ matrix
    least = residual @ matrix / torch.linalg.matrix_norm(matrix, 2) ** 2
    # the norm of A is a power iteration's
    torch.testing.assert_close(got, x0.flatten(1) - (inverse if share == 0 else least), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("schedule", [Schedule(), Schedule("flow")], ids=["exploding", "flow"])
def test_the_log_density_of_a_gaussian_is_exact(schedule):
    prior, x = random_prior(4), random_prior(4).sample(3, 5)
    ratios = torch.logspace(2.0, -2.0, 160, dtype=F64).tolist()
    levels = [*(schedule.at(ratio) for ratio in ratios), Level(1.0, 0.0)]
    run = Run(prior.denoiser, levels, draw=Streams(3, "sampling", 3), schedule=schedule)
    end = LogLikelihood(draws=60)(run, levels[0].alpha * x)
    torch.testing.assert_close(end, x)
    exact = prior.log_prob(x, Level(1.0, 0.0))
    # the standard error of 60 draws at each of 160 levels is about 0.3
    assert (run.record["log-density"] - exact).abs().max() < 1.0
    blurred = prior.log_prob(x, Level(1.0, 0.01))
    assert (blurred - exact).abs().max() < 0.05


def test_a_worse_denoiser_gives_a_bound():
    prior, x = random_prior(4), random_prior(4).sample(4, 5)
    levels = [*(Level(1.0, s) for s in torch.logspace(2.0, -2.0, 80, dtype=F64).tolist()), Level(1.0, 0.0)]
    run = Run(lambda x, t: 0.9 * prior.denoiser(x, t), levels, draw=Streams(3, "sampling", 4))
    LogLikelihood(20)(run, x)
    assert (run.record["log-density"] < prior.log_prob(x, Level(1.0, 0.0))).all()


def test_the_flow_s_determinant_is_its_jacobian_s():
    flow = RealNVP(torch.zeros(1, 1, 2, 2, dtype=F64), 0.5, 4, Streams(0, "test"))
    for weight in flow.parameters:
        weight += 0.3 * torch.randn(weight.shape, dtype=F64, generator=torch.Generator().manual_seed(weight.numel()))
    z = torch.randn(1, 1, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    jacobian = torch.autograd.functional.jacobian(lambda z: flow(z)[0], z).reshape(4, 4)
    assert jacobian.abs().min() > 1e-6  # every number has met every other
    assert flow(z)[1].item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item())


def test_the_score_prior_learns_the_posterior():
    """Four pixels that go together: mean and covariance of the flow's samples against the closed form."""
    prior, sigma = random_prior(2), 0.5
    matrix = torch.tensor([[1.0, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, -0.5]], dtype=F64)
    measurement = Measurement(Dense(matrix, (1, 2, 2)), torch.tensor([[0.4, -0.3]], dtype=F64), GaussianNoise(sigma))
    levels = [Level(1.0, 10.0), Level(1.0, 0.05), Level(1.0, 0.0)]
    run = Run(prior.denoiser, levels, [Guidance(measurement)], Streams(1, "sampling", 1))
    z = torch.zeros(4000, 1, 2, 2, dtype=F64)
    x = ScorePrior(iterations=700, batch=32, rate=0.01, couplings=4)(run, z).flatten(1)
    exact = prior.posterior(measurement)
    C = exact.covariance()
    scale = C.diag().sqrt()
    # the gradient's noise at the end of 700 iterations, well below
    assert ((x.mean(0) - exact.mean.flatten()).abs() < 0.1 * scale).all()
    assert ((torch.cov(x.T) - C).abs() < 0.15 * scale * scale[:, None]).all()
