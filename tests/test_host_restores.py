"""However a run ends, the host is as it was: functions, weights, buffers, and the next run is right."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace

import pytest
import tiny_models
import torch
from allocations import allocations

from posterior.diffusion.state import Estimate, State
from posterior.guidance.dps import DPS
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.inpainting import Inpainting


@pytest.fixture(scope="module")
def parts(host, tmp_path_factory):
    """SD1.5-shaped MODEL, VAE, conditioning and a DPS guidance."""
    folder = tmp_path_factory.mktemp("checkpoints")
    model = tiny_models.load(tiny_models.sd15(folder / "sd15.safetensors"))
    vae = tiny_models.load_vae(tiny_models.vae(folder / "vae.safetensors"))
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:, :] = 1
    measurement = Measurement.observe(Inpainting(mask), torch.rand(1, 3, 64, 64), GaussianNoise(0.0))
    guidance = host.call("PosteriorDPS", measurement=measurement, form="published", strength=1.0, vae=vae)
    return model, vae, host.conditioning(), guidance


SIGMAS = torch.tensor([5.0, 3.0, 1.0, 0.0])


@dataclass(frozen=True)
class Failing(DPS):
    """DPS that meets with an accident in its second step, with the gradient at hand."""

    accident: str = "error"

    def estimate(self, state: State, x0: torch.Tensor) -> Estimate:
        estimate = super().estimate(state, x0)
        if state.index == 1:
            if self.accident == "NaN":
                return Estimate(x0 * float("nan"))
            if self.accident == "interrupt":
                import comfy.model_management

                comfy.model_management.interrupt_current_processing()
            else:
                raise ZeroDivisionError("an accident")
        return estimate


def failing(guidance, accident: str):
    guide = guidance[0]
    return (replace(guide, block=Failing(guide.block.measurement, zeta=1.0, accident=accident)),)


def attempt(host, parts, guidance, way: str):
    model, _, conditioning, _ = parts
    latent = host.latent(1, 4, 8, 8)
    if way == "sampler":
        sampler = host.call("PosteriorGuidedDDIM", amount=0.0, noise_rule="eta", guidance=guidance)
        return host.sample(model, sampler, SIGMAS, latent, conditioning)[0]
    guided = host.call("PosteriorApplyGuidance", model=model, guidance=guidance)
    return host.sample(guided, "euler", SIGMAS, latent, conditioning)[0]


@pytest.mark.parametrize("way", ["sampler", "model"])
def test_accidents_leave_no_trace(host, parts, way):
    import comfy.model_management

    model, vae, conditioning, guidance = parts
    unguided, _ = host.sample(model, "euler", SIGMAS, host.latent(1, 4, 8, 8), conditioning)
    expected = attempt(host, parts, guidance, way)
    functions, objects = host.functions(), host.objects(model.model, vae.first_stage_model)
    accidents = {
        "error": (ZeroDivisionError, "an accident"),
        "NaN": (FloatingPointError, "sigma 3: the guidance is not a finite number"),
        "interrupt": (comfy.model_management.InterruptProcessingException, None),
    }
    for accident, (kind, message) in accidents.items():
        with pytest.raises(kind, match=message):
            attempt(host, parts, failing(guidance, accident), way)
        after = host.objects(model.model, vae.first_stage_model)
        assert len(after) == len(objects) and all(a is b for a, b in zip(objects, after, strict=True))
        assert host.functions() == functions
        assert torch.equal(attempt(host, parts, guidance, way), expected)
        again, _ = host.sample(model, "euler", SIGMAS, host.latent(1, 4, 8, 8), conditioning)
        assert torch.equal(again, unguided)
    assert (expected - unguided).abs().max() > 1e-3


def test_an_interrupt_ends_within_one_model_call(host, parts):
    """The host's flag is raised in the first step's guidance: no second forward pass happens."""
    import comfy.model_management

    model, _, conditioning, guidance = parts
    calls = []
    counted = model.clone()
    counted.set_model_unet_function_wrapper(
        lambda apply, call: calls.append(1) or apply(call["input"], call["timestep"], **call["c"])
    )
    sampler = host.call("PosteriorGuidedDDIM", amount=0.0, noise_rule="eta", guidance=failing(guidance, "interrupt"))
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        host.sample(counted, sampler, SIGMAS, host.latent(1, 4, 8, 8), conditioning)
    # two steps, and the start of the third, where the network's first layer asks; before them five calls that check the
    # gradient, since the one who counts is no part of the host
    assert len(calls) <= 8


def test_interrupted_runs_leak_nothing(host, parts, tmp_path):
    """Ten of them hold less at the end than one state of a run takes."""
    import comfy.model_management

    broken, state = failing(parts[3], "interrupt"), host.latent(1, 4, 8, 8)["samples"]

    def interrupted(times: int) -> None:
        for _ in range(times):
            with pytest.raises(comfy.model_management.InterruptProcessingException):
                attempt(host, parts, broken, "sampler")
        gc.collect()

    interrupted(2)
    peak, held = allocations(lambda: interrupted(10), tmp_path / "trace.json")
    assert held < state.nbytes < peak
