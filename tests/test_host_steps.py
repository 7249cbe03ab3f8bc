"""Case B10: the published after-step recipes have one step size in every sampler of the host."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from guided_host import SIZE, apply_guidance, guide, measured
from torch import Tensor, nn

from posterior.guidance.base import Estimate, Guidance
from posterior.guidance.dps import DPS

#: four steps in mid-sampling
PATHS = {"EPS": [9.0, 7.0, 5.0, 4.0, 3.2], "flow": [0.9, 0.8, 0.68, 0.55, 0.4]}
UNKNOWN = ("dpm_adaptive",)
#: image units
SHIFT = 0.05


class Line(nn.Module):
    """Tweedie's formula for N(0.1, deviation^2), [-1, 1] unit, as x0_hat or as a velocity."""

    def __init__(self, deviation: float, flow: bool):
        super().__init__()
        self.variance, self.flow = deviation**2, flow
        self.unused = nn.Parameter(torch.zeros(1))

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def forward(self, x: Tensor, timesteps: Tensor, **_) -> Tensor:
        t = timesteps.double().reshape(-1, 1, 1, 1)
        sigma = t / 1000 if self.flow else (4 * t).exp()
        alpha = 1 - sigma if self.flow else 1.0
        x0 = 0.1 + alpha * self.variance / (alpha**2 * self.variance + sigma**2) * (x - alpha * 0.1)
        return ((x - x0) / sigma if self.flow else x0).to(x.dtype)


@dataclass(frozen=True)
class Push(Guidance):
    """Asks for one and the same shift in some steps."""

    steps: Sequence[int] = ()

    label = "Push"

    def estimate(self, state, x0: Tensor) -> Estimate:
        return Estimate(x0, torch.full_like(x0, SHIFT) if state.index in self.steps else 0.0)


def line(host, family: str, deviation: float = 0.3):
    from posterior.host.models.pixel_model import ready_model

    model = ready_model(Line(deviation, family == "flow"))
    return host.call("ModelSamplingSD3", model=model, shift=1.0) if family == "flow" else model


def push(*steps: int) -> tuple:
    return guide(Push(measured(), steps=steps))


def end(host, model, sampler, sigmas: Sequence[float], offset: float = 0.0) -> float:
    """The mean of the last state, model unit; `offset` moves the picture that the run starts from."""
    latent = {"samples": host.latent(1, 3, SIZE, SIZE)["samples"] + offset}
    samples, _ = host.sample(model, sampler, torch.tensor(sigmas), latent, seed=7)
    flow = model.get_model_object("model_sampling").sigma_max <= 1  # there the host has divided by alpha
    return samples.double().mean().item() * (1 - sigmas[-1] if flow else 1.0)


def norm(family: str, sigma: float) -> float:
    return math.hypot(1 - sigma if family == "flow" else 1.0, sigma)


def arriving(host, family: str, name: str, sampler, constant) -> float:
    """What is at the end of a shift of norm in each step, in units of one: each fades as the state that it moved."""
    sigmas = PATHS[family]
    if name == "dpm_fast":  # it makes two steps of the four
        sigmas = [sigmas[0], math.sqrt(sigmas[0] * sigmas[-1]), sigmas[-1]]
    # what is left of a start, from runs that end earlier; uni_pc does not run on so few steps, and keeps the noise;
    # sa_solver hands out the state before the last
    lasts, late = range(1, len(sigmas)), name.startswith("sa_solver")
    if name.startswith(("uni_pc", "dpm_fast")):
        left = [sigmas[k] / sigmas[0] for k in lasts]
    else:
        runs = [[end(host, constant, sampler, sigmas[: k + 1 + late], offset) for k in lasts] for offset in (0.0, 4.0)]
        left = [(b - a) / 4 for a, b in zip(*runs, strict=True)]
    arrived, before = 0.0, 0.0
    for k, now in zip(lasts, left, strict=True):
        arrived = arrived * (now / before if abs(before) > 1e-5 else 0.0) + norm(family, sigmas[k])
        before = now
    return arrived


def detail_daemon(model, x: Tensor, sigmas: Tensor, *, wrapped, factor: float, **kwargs) -> Tensor:
    """A sampler that lies to the model about sigma, as those of other packs do: a bare function, two attributes."""

    def lying(x: Tensor, sigma: Tensor, **extra) -> Tensor:
        return model(x, sigma * factor, **extra)

    for name in ("inner_model", "sigmas"):
        setattr(lying, name, getattr(model, name))
    return wrapped.sampler_function(lying, x, sigmas, **kwargs, **wrapped.extra_options)


def daemon(wrapped, factor: float = 0.95):
    import comfy.samplers

    return comfy.samplers.KSAMPLER(detail_daemon, {"wrapped": wrapped, "factor": factor})


@pytest.mark.filterwarnings("ignore")  # the host's samplers have some of their own
@pytest.mark.parametrize("family", PATHS)
def test_one_step_size_in_every_sampler(host, family, caplog):
    """Case B10, in mid-sampling: a shift of the last step only, and one in each step, over what they should be."""
    import comfy.samplers

    sigmas = PATHS[family]
    natural, constant = line(host, family), line(host, family, 1e-4)
    samplers = {name: comfy.samplers.sampler_object(name) for name in comfy.samplers.SAMPLER_NAMES}
    samplers["Detail Daemon"] = daemon(samplers["dpmpp_2m_sde"])
    wrong = {}
    print(f"\n{family:26s} one step   each step")
    for name, sampler in samplers.items():
        caplog.clear()
        with caplog.at_level(logging.INFO):
            one = end(host, apply_guidance(natural, push(3)), sampler, sigmas) - end(host, natural, sampler, sigmas)
        said = [record.message for record in caplog.records if "step size" in record.message]
        assert len(said) == (name in UNKNOWN), name
        if name in UNKNOWN:
            print(f"{name:26s} {said[0]}")
            continue
        unit = 2 * SHIFT  # pictures of [0, 1] are half as long
        pushed = apply_guidance(constant, push(0, 1, 2, 3))
        each = end(host, pushed, sampler, sigmas) - end(host, constant, sampler, sigmas)
        ratios = (one / norm(family, sigmas[-1]) / unit, each / arriving(host, family, name, sampler, constant) / unit)
        print(f"{name:26s} {ratios[0]:8.3f}   {ratios[1]:8.3f}")
        checked = ratios[1:] if name == "dpm_fast" else ratios  # its steps begin elsewhere
        if max(abs(ratio - 1) for ratio in checked) > 0.1:
            wrong[name] = ratios
    assert not wrong


def test_measuring_a_sampler_leaves_no_trace(host):
    """The draws of the run are those of a run without; a sampler that fails on a row of numbers runs on as Euler."""
    import comfy.samplers

    model, sigmas = line(host, "EPS"), PATHS["EPS"]
    states = []
    for steps in ((), (1,)):
        torch.manual_seed(4)
        end(host, apply_guidance(model, push(*steps)), "dpmpp_2m_sde", sigmas)
        states.append(torch.random.get_rng_state())
    assert torch.equal(*states)

    def fragile(model, x, sigmas, **kwargs):
        assert x.shape[-1] == SIZE, "pictures only"
        return comfy.samplers.sampler_object("euler").sampler_function(model, x, sigmas, **kwargs)

    moved = end(host, apply_guidance(model, push(3)), comfy.samplers.KSAMPLER(fragile), sigmas)
    off = end(host, model, "euler", sigmas)
    assert (moved - off) / (2 * SHIFT * norm("EPS", sigmas[-1])) == pytest.approx(1, abs=1e-3)


def test_the_record_shows_a_shift_as_a_change_of_the_prediction(host):
    """Case C5: in the coordinates of x0_hat, whatever the noise level; the last step's shift is its own change."""
    sigmas = [44.0, 38.0, 5.0, 0.0]
    guidance, record = host.call("PosteriorRecordConvergence", guidance=push(0, 1, 2))
    model = apply_guidance(line(host, "EPS"), guidance)
    host.sample(model, "euler", torch.tensor(sigmas), host.latent(1, 3, SIZE, SIZE))
    expected = [SHIFT * norm("EPS", s) / (1 - s / t) for t, s in zip(sigmas[:-1], sigmas[1:], strict=True)]
    assert [row.change for row in record.rows] == pytest.approx(expected, rel=1e-3)
    assert expected[0] > 250 * SHIFT


@pytest.mark.parametrize("own", [True, False])
def test_a_sampler_that_wraps_ours(host, own):
    """Case B11: with a noise mask and a gradient, and guides of the MODEL that must act once."""
    model, sigmas = line(host, "EPS"), [*PATHS["EPS"], 0.0]
    guides = guide(DPS(measured(), 3.0))
    latent = {**host.latent(1, 3, SIZE, SIZE, seed=4), "noise_mask": torch.zeros(1, SIZE, SIZE)}
    latent["noise_mask"][:, SIZE // 2 :] = 1
    sampler = host.call("PosteriorGuidedDDIM", amount=0.0, noise_rule="eta", **({"guidance": guides} if own else {}))
    model = model if own else apply_guidance(model, guides)
    expected, _ = host.sample(model, sampler, torch.tensor(sigmas), latent)
    got, _ = host.sample(model, daemon(sampler, 1.0), torch.tensor(sigmas), latent)
    assert torch.equal(got, expected)
    unguided, _ = host.sample(line(host, "EPS"), "euler", torch.tensor(sigmas), latent)
    assert (got - unguided).abs().max() > 1e-3
    lied, _ = host.sample(model, daemon(sampler), torch.tensor(sigmas), latent)
    assert lied.isfinite().all() and not torch.equal(lied, expected)
