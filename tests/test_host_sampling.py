"""Our samplers inside the host, and against the host's."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import tiny_models
import torch
from guided_host import SIZE, apply_guidance, dynamic_patcher, gaussian_model, guide, measured, misfit
from torch.nn import Linear

from posterior.algebra.refusal import Refusal
from posterior.guidance.ddnm import DDNM
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.identity import Identity

NONE = [[None, {}]]


@pytest.fixture(scope="module")
def gaussian(host):
    return gaussian_model(host)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def sd15(host, folder):
    return tiny_models.load(tiny_models.sd15(folder / "sd15.safetensors"))


@pytest.fixture(scope="module")
def sd3(host, folder):
    return tiny_models.load(tiny_models.sd3(folder / "sd3.safetensors"))


@pytest.mark.parametrize("family", ["gaussian", "sd15", "sd3"])
def test_unguided_ddim_is_the_host_s(host, request, family):
    """eta = 0: the host's `ddim` and `euler` to 1e-5, for pixel, EPS and flow models."""
    model = request.getfixturevalue(family)
    shape = {"gaussian": (2, 3, SIZE, SIZE), "sd15": (1, 4, 8, 8), "sd3": (1, 16, 8, 8)}[family]
    conditioning = {
        "gaussian": None, "sd15": host.conditioning(), "sd3": host.conditioning(width=4096, pooled=2048)
    }[family]  # fmt: skip
    sigmas = host.call("BasicScheduler", model=model, scheduler="simple", steps=4, denoise=1.0)
    ours = host.call("PosteriorGuidedDDIM", amount=0.0, noise_rule="eta")
    got, x0 = host.sample(model, ours, sigmas, host.latent(*shape), conditioning)
    for name in ("euler", "ddim"):
        expected, expected_x0 = host.sample(model, name, sigmas, host.latent(*shape), conditioning)
        assert (got - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max())
        assert (x0 - expected_x0).abs().max() <= 1e-5 * max(1.0, expected_x0.abs().max())
    # stopped in the middle and continued, as with KSamplerAdvanced's leftover noise
    first, _ = host.sample(model, ours, sigmas[:3], host.latent(*shape), conditioning)
    euler, _ = host.sample(model, "euler", sigmas[:3], host.latent(*shape), conditioning)
    assert (first - euler).abs().max() <= 1e-5 * max(1.0, euler.abs().max())


@pytest.mark.parametrize(
    "node, inputs",
    [
        ("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": True}),
        ("ModelSamplingContinuousEDM", {"sampling": "edm", "sigma_max": 80.0, "sigma_min": 0.01}),
        ("ModelSamplingContinuousV", {"sampling": "v_prediction", "sigma_max": 300.0, "sigma_min": 0.03}),
        ("RescaleCFG", {"multiplier": 0.7}),
    ],
)  # fmt: skip
def test_other_parametrisations(host, sd15, node, inputs):
    """Zero terminal SNR, EDM, continuous V and rescaled CFG, at CFG 7 with two prompts."""
    model = host.call(node, model=sd15, **inputs)
    sigmas = host.call("BasicScheduler", model=model, scheduler="simple", steps=3, denoise=1.0)
    prompts = {"positive": host.conditioning(), "negative": host.conditioning(seed=1), "cfg": 7.0}
    ours = host.call("PosteriorGuidedDDIM", amount=0.0, noise_rule="eta")
    got, _ = host.sample(model, ours, sigmas, host.latent(1, 4, 8, 8), **prompts)
    expected, _ = host.sample(model, "euler", sigmas, host.latent(1, 4, 8, 8), **prompts)
    assert (got - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max(), sigmas.max())


def test_ancestral_in_law(host, gaussian):
    """eta = 1 and the host's euler_ancestral make the same moments in as many steps (many pixels, many samples)."""
    sigmas = host.call("BasicScheduler", model=gaussian, scheduler="karras", steps=6, denoise=1.0)
    latent = host.latent(400, 3, SIZE, SIZE)
    ours, _ = host.sample(
        gaussian, host.call("PosteriorGuidedDDIM", amount=1.0, noise_rule="eta"), sigmas, latent, seed=1
    )
    theirs, _ = host.sample(gaussian, "euler_ancestral", sigmas, latent, seed=2)
    spread = theirs.std(0)
    assert ((ours.mean(0) - theirs.mean(0)) / spread).abs().max() < 4.5 * (2 / 400) ** 0.5
    assert (ours.var(0) / theirs.var(0)).log().abs().max() < 4.5 * 2 * (1 / 400) ** 0.5


def test_noise_mask_keeps_the_latent_outside(host, gaussian):
    """The host's own mask stands above guidance: outside it the picture stays as it was."""
    measurement, sigmas = measured(), torch.tensor([5.0, 1.0, 0.0])
    latent = {**host.latent(1, 3, SIZE, SIZE, seed=4), "noise_mask": torch.zeros(1, SIZE, SIZE)}
    latent["noise_mask"][:, SIZE // 2 :] = 1
    sampler = host.call("PosteriorGuidedDDIM", amount=1.0, noise_rule="eta", guidance=guide(DDNM(measurement)))
    by_model, _ = host.sample(apply_guidance(gaussian, guide(DDNM(measurement))), "euler_ancestral", sigmas, latent)
    # the host blends after the prediction: ours guides the blended one, Apply Guidance the model's own
    by_sampler, _ = host.sample(gaussian, sampler, sigmas, latent)
    for samples in (by_model, by_sampler):
        inside = measurement.residual((samples + 1) / 2)[..., SIZE // 2 :, :]
        assert inside.abs().max() < 1e-5
    assert (by_model - latent["samples"])[..., : SIZE // 2, :].abs().max() < 1e-5


def test_image_to_image_and_advanced_steps(host, gaussian):
    measurement = measured()
    model = apply_guidance(gaussian, guide(DDNM(measurement)))
    common = {
        "steps": 6, "cfg": 1.0, "sampler_name": "dpmpp_2m", "scheduler": "karras", "positive": NONE, "negative": NONE,
    }  # fmt: skip
    start = host.latent(1, 3, SIZE, SIZE, seed=1)
    half = host.call("KSampler", model=model, seed=0, latent_image=start, denoise=0.5, **common)["samples"]
    assert misfit(measurement, half) < 2e-4
    advanced = {**common, "model": model, "noise_seed": 0}
    first = host.call(
        "KSamplerAdvanced", latent_image=start, add_noise="enable", start_at_step=0, end_at_step=3,
        return_with_leftover_noise="enable", **advanced,
    )  # fmt: skip
    assert misfit(measurement, first["samples"]) > 0.05  # still noisy
    second = host.call(
        "KSamplerAdvanced", latent_image=first, add_noise="disable", start_at_step=3, end_at_step=10000,
        return_with_leftover_noise="disable", **advanced,
    )  # fmt: skip
    assert misfit(measurement, second["samples"]) < 2e-4


def test_flow_models_start_at_alpha_zero(host, sd3):
    """CONST at sigma = 1: the state holds no picture, and nothing divides by alpha."""
    sigmas = host.call("BasicScheduler", model=sd3, scheduler="simple", steps=3, denoise=1.0)
    assert sigmas[0] == 1.0
    for amount in (0.0, 1.0):
        sampler = host.call("PosteriorGuidedDDIM", amount=amount, noise_rule="eta")
        samples, _ = host.sample(
            sd3, sampler, sigmas, host.latent(1, 16, 8, 8), host.conditioning(width=4096, pooled=2048)
        )
        assert samples.isfinite().all()


def test_one_seed_one_picture_and_own_streams(host, gaussian):
    sampler = host.call("PosteriorGuidedDDIM", amount=1.0, noise_rule="eta")
    sigmas = torch.tensor([10.0, 2.0, 0.5, 0.0])
    three, _ = host.sample(gaussian, sampler, sigmas, host.latent(3, 3, SIZE, SIZE), seed=5)
    again, _ = host.sample(gaussian, sampler, sigmas, host.latent(3, 3, SIZE, SIZE), seed=5)
    two, _ = host.sample(gaussian, sampler, sigmas, host.latent(2, 3, SIZE, SIZE), seed=5)
    other, _ = host.sample(gaussian, sampler, sigmas, host.latent(3, 3, SIZE, SIZE), seed=6)
    assert torch.equal(three, again)
    assert (three[:2] - two).abs().max() < 1e-5  # the model's arithmetic may differ with the batch, the noise does not
    assert (three - other).abs().max() > 0.01


@pytest.mark.parametrize("way", ["fresh noise", "a block that draws, in a sampler of the host"])
def test_a_sample_taken_out_of_its_batch_is_the_same_picture(host, gaussian, way):
    """Case C4: samples 1 and 5 of six, alone by `batch_index`, as LatentFromBatch gives them."""
    from posterior.guidance.lgd import LGDMC

    if way == "fresh noise":
        model, sampler = gaussian, host.call("PosteriorGuidedDDIM", amount=1.0, noise_rule="eta")
    else:
        picture = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
        measurement = Measurement.observe(Identity(), picture, GaussianNoise(0.1))
        model, sampler = apply_guidance(gaussian, guide(LGDMC(measurement, 0.3))), "euler"
    sigmas = torch.tensor([10.0, 2.0, 0.5, 0.0])
    six, _ = host.sample(model, sampler, sigmas, host.latent(6, 3, SIZE, SIZE), seed=5)
    for i in (1, 5):
        single = {**host.latent(1, 3, SIZE, SIZE), "batch_index": [i]}
        alone, _ = host.sample(model, sampler, sigmas, single, seed=5)
        assert (alone - six[i : i + 1]).abs().max() < 1e-4  # float32; other noise would be off by 0.1 and more
    pair = {**host.latent(2, 3, SIZE, SIZE), "batch_index": [5, 1]}
    swapped, _ = host.sample(model, sampler, sigmas, pair, seed=5)
    assert (swapped - six[[5, 1]]).abs().max() < 1e-4


def test_simulated_noise_and_sampling_noise_are_independent(host, gaussian):
    """The same seed in Simulate and in the sampler must not give the same numbers."""
    from posterior.samplers.base import Sampler

    clean = torch.zeros(1, 3, SIZE, SIZE)
    noise = Measurement.simulate(Identity(), clean, GaussianNoise(1.0), seed=9).y
    drawn = []

    class Drawing(Sampler):
        def __call__(self, run, x):
            drawn.append(run.draw.normal(x))
            return x

    from posterior.host.sampler import GuidedSampler

    host.sample(gaussian, GuidedSampler((), Drawing()), torch.tensor([1.0, 0.0]), host.latent(*clean.shape), seed=9)
    assert torch.corrcoef(torch.stack([noise.flatten(), drawn[0].flatten()]))[0, 1].abs() < 0.3


def test_steps_of_evaluations_between_and_at_rounded_entries(host):
    """Case D6: many steps, equal and rising ones, entries that are no numbers."""
    from posterior.host.apply import step_of

    sigmas = [8.0, 4.0, 2.0, 0.0]
    assert [step_of(value, sigmas) for value in (8.0, 8.001, 4.0, 4.0005, 3.999, 3.0, 2.0, 1.0, 9.0)] == [
        0, 0, 1, 1, 1, 1, 2, 2, 0,
    ]  # fmt: skip
    assert [step_of(value, sigmas[2::-1]) for value in (1.0, 2.0, 3.0, 3.999, 4.0, 5.0, 8.0)] == [0, 0, 0, 1, 1, 1, 1]
    assert [step_of(value, [4.0, 4.0, 2.0, 0.0]) for value in (4.0, 3.0, 2.0)] == [1, 1, 2]
    assert [step_of(value, [4.0, math.nan, 2.0, 0.0]) for value in (4.0, 2.0, math.nan)] == [0, 1, 0]
    assert step_of(4.0, [4.0, 0.0]) == step_of(1.0, [4.0, 0.0]) == 0
    for steps in (250, 2000):  # of a flow with shift 3, whose first steps are the shortest
        share = torch.linspace(1, 0, steps + 1)
        many = 3 * share / (1 + 2 * share)
        rounded = (many.log() * 1.0000001).exp().tolist()
        assert [step_of(value, many.tolist()) for value in rounded[:-1]] == list(range(steps))
        between = ((many[1:] + many[:-1]) / 2).tolist()
        assert [step_of(value, many.tolist()) for value in between] == list(range(steps))


@pytest.mark.parametrize("name", ["euler", "dpm_adaptive"])
@pytest.mark.parametrize("steps", [[4.0], [4.0, 4.0, 2.0, 0.0], [0.5, 1.0, 2.0]])
def test_odd_step_lists(host, gaussian, name, steps):
    """One entry, equal entries, rising ones: the host's samplers do with them what they do without guidance."""
    sigmas, latent = torch.tensor(steps), host.latent(1, 3, SIZE, SIZE)
    free, _ = host.sample(gaussian, name, sigmas, latent)
    guided, _ = host.sample(apply_guidance(gaussian, guide(DDNM(measured()))), name, sigmas, latent)
    assert guided.isfinite().all() == free.isfinite().all()


def test_strength_zero_of_dps_is_off_bit_for_bit(host, sd15):
    """No gradient attention, no change of coordinates, no VAE."""
    sigmas = torch.tensor([5.0, 2.0, 0.0])
    unguided, _ = host.sample(sd15, "euler", sigmas, host.latent(1, 4, 8, 8), host.conditioning())
    for form in ("published", "Gaussian"):
        measurement = Measurement(measured().operator, measured().y, GaussianNoise(0.1))
        guidance = host.call("PosteriorDPS", measurement=measurement, form=form, strength=0.0)
        guided, _ = host.sample(
            apply_guidance(sd15, guidance), "euler", sigmas, host.latent(1, 4, 8, 8), host.conditioning()
        )
        assert torch.equal(guided, unguided)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("way", ["model", "sampler"])
def test_newer_hosts_are_told_of_gradients(host, gaussian, monkeypatch, way, kept):
    """`in_training` is set while a gradient is needed; a dynamic MODEL runs as a static clone meanwhile."""
    import comfy.model_management
    import comfy.model_patcher

    seen = []

    class Dynamic(dynamic_patcher()):
        def clone(self, disable_dynamic: bool = False):
            assert not (disable_dynamic and kept), "the host would read the model from the disk anew"
            return self.static() if disable_dynamic else super().clone()

        def static(self):
            static = gaussian_model(host)  # another one of the same weights
            static.model_options = comfy.model_patcher.create_model_options_clone(self.model_options)
            return static

    if kept:
        Dynamic.get_non_dynamic_delegate = Dynamic.static

    def watch(apply, call):
        seen.append((comfy.model_management.in_training, apply.__self__ is gaussian.model))
        return apply(call["input"], call["timestep"], **call["c"])

    monkeypatch.setattr(comfy.model_management, "in_training", False, raising=False)
    with torch.inference_mode():
        patcher = Dynamic(gaussian.model, gaussian.load_device, gaussian.offload_device)
    patcher.set_model_unet_function_wrapper(watch)
    guidance = host.call("PosteriorDPS", measurement=measured(), form="published", strength=1.0)
    model, sampler = patcher, "euler"
    if way == "model":
        model = apply_guidance(patcher, guidance)
    else:
        sampler = host.call("PosteriorGuidedDDIM", amount=0.0, noise_rule="eta", guidance=guidance)
    latent, sigmas = host.latent(1, 3, SIZE, SIZE), torch.tensor([5.0, 2.0, 0.0])
    got, _ = host.sample(model, sampler, sigmas, latent)
    # the steps, and before them five calls that check the gradient, since a wrapper may cut it
    assert seen == [(True, False)] * 7 and comfy.model_management.in_training is False
    expected, _ = host.sample(apply_guidance(gaussian, guidance), "euler", sigmas, latent)
    assert (got - expected).abs().max() < 1e-4


def test_a_controlnet_whose_weights_move_is_refused(gaussian):
    """Its gradient could be wrong in silence."""
    from posterior.host.autograd.gradients import static_weights

    control = dynamic_patcher()(Linear(1, 1), gaussian.load_device, gaussian.offload_device)
    guider = SimpleNamespace(model_patcher=gaussian, loaded_models=[control])
    with pytest.raises(Refusal, match="--disable-dynamic-vram"), static_weights(guider):
        pass
    guider.loaded_models = []
    with static_weights(guider):
        assert guider.model_patcher is gaussian
