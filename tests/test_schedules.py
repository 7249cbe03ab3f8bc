"""Noise schedules and the time axes of the SDE, against numerical derivatives and quadrature."""

from __future__ import annotations

import math

import pytest
from scipy.integrate import quad

from posterior.diffusion.level import Level
from posterior.diffusion.schedule import Flow, Schedule, VarianceExploding, VariancePreserving


@pytest.mark.parametrize("axis", [VarianceExploding(), VariancePreserving(), Flow()], ids=lambda a: type(a).__name__)
def test_axes_against_derivatives_and_integrals(axis):
    """f = alpha' / alpha, g^2 = (sigma^2)' - 2 f sigma^2; alpha and sigma are their integrals again."""
    step = 1e-5
    for t in (0.05, 0.3, 0.8):
        d_alpha = (axis.alpha(t + step) - axis.alpha(t - step)) / (2 * step)
        d_variance = (axis.sigma(t + step) ** 2 - axis.sigma(t - step) ** 2) / (2 * step)
        assert axis.f(t) == pytest.approx(d_alpha / axis.alpha(t), rel=1e-6, abs=1e-9)
        assert axis.g2(t) == pytest.approx(d_variance - 2 * axis.f(t) * axis.sigma(t) ** 2, rel=1e-6)
        assert math.exp(quad(axis.f, 0, t)[0]) == pytest.approx(axis.alpha(t), rel=1e-8)
        # variation of constants: sigma_t^2 = int_0^t (alpha_t / alpha_u)^2 g^2(u) du
        integral = quad(lambda u, t=t: (axis.alpha(t) / axis.alpha(u)) ** 2 * axis.g2(u), 0, t)[0]
        assert integral == pytest.approx(axis.sigma(t) ** 2, rel=1e-8)
        assert axis.time(axis.sigma(t) / axis.alpha(t)) == pytest.approx(t, rel=1e-9)


def test_ou_process_is_the_note_s_check():
    """alpha = e^-t, sigma^2 = 1 - e^-2t has g = sqrt 2: constant beta = 2."""
    axis = VariancePreserving(2.0, 2.0)
    assert axis.alpha(0.7) == pytest.approx(math.exp(-0.7))
    assert axis.sigma(0.7) ** 2 == pytest.approx(1 - math.exp(-1.4))
    assert axis.g2(0.7) == 2.0 and axis.f(0.7) == -1.0


def test_schedules():
    assert Schedule("exploding").level(3.0) == Level(1.0, 3.0)
    assert Schedule("flow").level(0.25) == Level(0.75, 0.25)
    assert Schedule("flow").level(1.0).alpha == 0.0
