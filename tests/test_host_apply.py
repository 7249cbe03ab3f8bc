"""Apply Guidance to Model: guidance in the host's own samplers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from guided_host import SIZE, apply_guidance, gaussian_model, guide, measured, misfit

from posterior.guidance.ddnm import DDNM
from posterior.guidance.timing import Timing
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.convolution import CircularConvolution
from posterior.operators.inpainting import Inpainting
from posterior.operators.kernels import motion
from posterior.photos import load_photo

NONE = [[None, {}]]


@pytest.fixture(scope="module")
def gaussian(host):
    return gaussian_model(host)


SAMPLERS = [
    "euler", "euler_ancestral", "heun", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast", "dpmpp_2s_ancestral", "dpmpp_2m",
    "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde", "ddpm", "lcm", "ipndm", "deis", "res_multistep",
    "gradient_estimation", "er_sde", "seeds_2", "sa_solver", "ddim", "uni_pc", "uni_pc_bh2",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # the host's samplers have some of their own
@pytest.mark.parametrize("name", SAMPLERS)
def test_apply_guidance_in_the_host_s_samplers(host, gaussian, name):
    """KSampler keeps what was measured; with strength 0 the result is the unguided one bit for bit."""
    block = DDNM(measured())
    common = {
        "seed": 3, "steps": 5, "cfg": 7.0, "sampler_name": name, "scheduler": "karras", "positive": NONE,
        "negative": NONE, "latent_image": host.latent(2, 3, SIZE, SIZE), "denoise": 1.0,
    }  # fmt: skip
    guided = host.call("KSampler", model=apply_guidance(gaussian, guide(block)), **common)["samples"]
    assert guided.isfinite().all()
    # the last evaluation of a few of them is not at the end of the path
    loose = name in ("dpm_fast", "uni_pc", "uni_pc_bh2", "sa_solver")
    assert misfit(block.measurement, guided) < (0.02 if loose else 2e-4)
    off = guide(replace(block, timing=Timing(strength=0.0)))
    unguided = host.call("KSampler", model=gaussian, **common)["samples"]
    assert torch.equal(host.call("KSampler", model=apply_guidance(gaussian, off), **common)["samples"], unguided)
    assert misfit(block.measurement, unguided) > 0.1


def test_a_shift_is_not_extrapolated(host, gaussian):
    """The host's second-order multistep sampler adds what DPS adds once, as our own does."""
    sigmas = host.call("BasicScheduler", model=gaussian, scheduler="karras", steps=8, denoise=1.0)
    guidance = host.call("PosteriorDPS", measurement=measured(), form="published", strength=3.0)
    ours = host.call("PosteriorGuidedODE", solver="DPM-Solver++ 2M", guidance=guidance)
    latent = host.latent(1, 3, SIZE, SIZE)
    expected, _ = host.sample(gaussian, ours, sigmas, latent)
    got, _ = host.sample(apply_guidance(gaussian, guidance), "dpmpp_2m", sigmas, latent)
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    "method, inputs, name, gain",
    [
        ("PosteriorDiffPIR", {}, "euler", 3.0),
        ("PosteriorDiffPIR", {}, "dpmpp_2m", 3.0),
        ("PosteriorDiffPIR", {}, "euler_ancestral", 4.0),
        ("PosteriorPiGDM", {}, "dpmpp_2m", 4.0),
        ("PosteriorDPS", {"strength": 12.5}, "ddim", 0.8),
        ("PosteriorDPS", {"strength": 12.5}, "euler_ancestral", 1.5),
    ],
)  # fmt: skip
def test_deblurring_a_photo_in_the_host_s_samplers(host, method, inputs, name, gain):
    """With the settings that the nodes start with the picture fits, and is nearer to the truth than the blurred one."""
    clean = load_photo("coffee", 64).movedim(-1, 1)
    blur = CircularConvolution(motion(9, 30.0))
    measurement = Measurement.simulate(blur, clean, GaussianNoise(0.02), seed=0)
    guidance = host.call(method, measurement=measurement, **inputs)
    model = apply_guidance(host.call("PosteriorPhotoPrior"), guidance)
    samples = host.call(
        "KSampler", model=model, seed=3, steps=20, cfg=1.0, sampler_name=name, scheduler="karras", positive=NONE,
        negative=NONE, latent_image=host.latent(*clean.shape), denoise=1.0,
    )["samples"]  # fmt: skip
    picture = ((samples + 1) / 2).clamp(0, 1)

    def error(x: torch.Tensor) -> torch.Tensor:
        return 10 * (x - clean).square().mean().log10()

    assert error(picture) < error(measurement.y) - gain
    assert 0.75 < measurement.agreement(picture) < 1.3


def test_two_guidances_in_a_row_listen_to_both(host, gaussian):
    left = measured()
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., : SIZE // 2 + 1] = 1
    right = Measurement.observe(Inpainting(mask), torch.full((1, 3, SIZE, SIZE), 0.4), GaussianNoise(0.0))
    sigmas = host.call("BasicScheduler", model=gaussian, scheduler="karras", steps=4, denoise=1.0)
    latent = host.latent(1, 3, SIZE, SIZE)
    model = apply_guidance(apply_guidance(gaussian, guide(DDNM(left))), guide(DDNM(right)))
    twice, _ = host.sample(model, "euler", sigmas, latent)
    assert misfit(left, twice) < 1e-5 and misfit(right, twice) < 1e-5
    # one in the MODEL and one in our own sampler, which then listens to both
    sampler = host.call("PosteriorGuidedDDIM", amount=0.0, noise_rule="eta", guidance=guide(DDNM(right)))
    mixed, _ = host.sample(apply_guidance(gaussian, guide(DDNM(left))), sampler, sigmas, latent)
    assert (mixed - twice).abs().max() < 1e-4


def test_a_batch_listens_to_its_own_measurements(host, gaussian):
    both, sigmas = measured(batch=2), torch.tensor([10.0, 3.0, 1.0, 0.0])
    model = apply_guidance(gaussian, guide(DDNM(both)))
    together, _ = host.sample(model, "euler", sigmas, host.latent(2, 3, SIZE, SIZE))
    assert misfit(both, together) < 1e-5
    one = Measurement(both.operator, both.y[1:], both.noise)
    latent = {**host.latent(1, 3, SIZE, SIZE), "batch_index": [1]}
    alone, _ = host.sample(apply_guidance(gaussian, guide(DDNM(one))), "euler", sigmas, latent)
    assert (alone - together[1:]).abs().max() < 1e-5
