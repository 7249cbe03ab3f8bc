"""The search along a line that FlowDPS and its kin make through a decoder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from patch_codec import F64, latent_prior
from test_few_steps import NONLINEAR, start, through
from test_latent import LATENT, dense, one_thread  # noqa: F401
from torch import Tensor

from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.inpainting import Inpainting
from posterior.samplers.descent import descend, noise_energy


def blurred() -> tuple[Measurement, Tensor]:
    """Through the linear autoencoder: as a problem of least squares, J z = b."""
    measurement = dense("upscaling", 0.1)
    return measurement, measurement.operator.matrix


def test_descent_is_conjugate_gradients_for_linear_damage():
    measurement, J = blurred()
    below = replace(measurement, noise=GaussianNoise(0.0))
    z, b = start(1, LATENT), measurement.y
    found = descend(below, z, 5).flatten()
    x, r = z.flatten(), J.T @ (b[0] - J @ z.flatten())
    p = r.clone()
    for _ in range(5):  # Hestenes and Stiefel on the normal equations
        q = J.T @ (J @ p)
        step = (r @ r) / (p @ q)
        x, after = x + step * p, r - step * q
        p, r = after + (after @ after) / (r @ r) * p, after
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-6)


def test_descent_stops_each_sample_at_the_noise():
    measurement, _ = blurred()
    z = torch.cat([start(2, LATENT), latent_prior().sample(1, 4)])  # the last is what was measured
    found = descend(measurement, z, 60)
    energy = measurement.residual(found).square().flatten(1).sum(1)
    goal = noise_energy(measurement)
    assert ((energy[:2] / goal - 1).abs() < 2e-3).all()
    assert measurement.residual(z)[2].square().sum() > goal or torch.equal(found[2], z[2])
    torch.testing.assert_close(descend(measurement, z[:1], 60), found[:1], rtol=1e-9, atol=1e-9)


def test_descent_through_a_nonlinear_decoder_gets_there():
    hole = torch.zeros(1, 1, 8, 8, dtype=F64)
    hole[..., 2:5, 1:6] = 1
    truth = start(1, seed=3)
    measurement = Measurement.simulate(Inpainting(hole), NONLINEAR.decode(truth), GaussianNoise(0.02), 0)
    composed = through(measurement, NONLINEAR).measurement
    before, after = (composed.fit(z).item() for z in (start(1), descend(composed, start(1), 20)))
    assert before > 2 and after == pytest.approx(1.0, abs=0.05)
