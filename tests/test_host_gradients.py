"""Gradients through the host's models: right, in every mode, and without a trace afterwards."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from torch.nn import Linear

from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.inpainting import Inpainting


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def sd15(host, folder):
    """(MODEL, its file)"""
    path = tiny_models.sd15(folder / "sd15.safetensors")
    return tiny_models.load(path), path


@pytest.fixture(scope="module")
def vae(host, folder):
    """(VAE, its file)"""
    path = tiny_models.vae(folder / "vae.safetensors")
    return tiny_models.load_vae(path), path


def measurement(batch: int = 1, size: int = 64) -> Measurement:
    """The upper half of random pictures."""
    mask = torch.zeros(1, 1, size, size)
    mask[..., size // 2 :, :] = 1
    picture = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(7))
    return Measurement.observe(Inpainting(mask), picture, GaussianNoise(0.0))


SIGMAS = torch.tensor([5.0, 2.0])
#: relative to the largest value: networks are in float64, the host's own states in float32, a dozen roundings of 6e-8
ROUNDING = 1e-5


def reference(sd15, vae, x: torch.Tensor, conditioning, measured: Measurement, zeta: float, unit=None) -> torch.Tensor:
    """x after one step of DPS from SIGMAS[0] to SIGMAS[1], written down from the paper, without the host's samplers.

    unit: `(x_in, timestep, context) -> eps`, the network.
    """
    import comfy.ldm.modules.attention as attention
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.taesd.taesd import TAESD
    from safetensors.torch import load_file

    network = UNetModel(
        image_size=8, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[1], channel_mult=[1],
        num_heads=8, num_head_channels=-1, use_spatial_transformer=True, transformer_depth=[1],
        transformer_depth_middle=1, transformer_depth_output=[1] * 2, context_dim=768, dtype=torch.float64,
    ).requires_grad_(False)  # fmt: skip
    network.load_state_dict(load_file(sd15[1]))
    decoder = TAESD(latent_channels=4).double()
    decoder.load_state_dict(load_file(vae[1]))
    sigma, following = SIGMAS.tolist()
    timestep = sd15[0].get_model_object("model_sampling").timestep(SIGMAS[:1]).float()
    options = {"optimized_attention_override": lambda f, *a, **k: attention.attention_pytorch(*a, **k)}
    x = x.double().requires_grad_()
    contexts = conditioning[0][0].double().expand(x.shape[0], -1, -1)
    eps = network(x / (sigma**2 + 1) ** 0.5, timestep.expand(x.shape[0]), contexts, transformer_options=options)
    x0 = x - sigma * eps
    picture = (decoder.decode(x0 / 0.18215) + 1) / 2
    residual = (measured.y - measured.operator.forward(picture)).flatten(1).norm(dim=1).sum()
    (gradient,) = torch.autograd.grad(residual, x)
    # the published step in variance-preserving coordinates, images in [-1, 1]: both sides carry a factor 2
    shift = -zeta * 2 * (sigma**2 + 1) ** 0.5 * gradient
    return (x0 + following / sigma * (x - x0) + (following**2 + 1) ** 0.5 * shift).detach()


def test_the_gradient_is_the_published_step(host, sd15, vae):
    conditioning, measured = host.conditioning(), measurement()
    before = host.objects(sd15[0].model, vae[0].first_stage_model)
    guidance = host.call("PosteriorDPS", measurement=measured, form="published", strength=0.7, vae=vae[0])
    sampler = host.call("PosteriorGuidedDDIM", amount=0.0, noise_rule="eta", guidance=guidance)
    latent = host.latent(1, 4, 8, 8)
    got, _ = host.sample(sd15[0], sampler, SIGMAS, latent, conditioning)
    assert all(a is b for a, b in zip(before, host.objects(sd15[0].model, vae[0].first_stage_model), strict=True))
    start = SIGMAS[0] * torch.randn(1, 4, 8, 8, generator=torch.manual_seed(1))
    expected = reference(sd15, vae, start, conditioning, measured, 0.7)
    assert (got * 0.18215 - expected).abs().max() < ROUNDING * expected.abs().max()


@pytest.mark.parametrize("plan", ["out_of_place", "checkpoint", "pieces"])
def test_every_way_of_saving_memory_gives_the_same_gradient(host, sd15, vae, plan, monkeypatch):
    from posterior.host import run
    from posterior.host.autograd.memory_plan import MemoryPlan

    ways = {
        "out_of_place": MemoryPlan(out_of_place=True),
        "checkpoint": MemoryPlan(out_of_place=True, checkpoint=True),
        "pieces": MemoryPlan(out_of_place=True, checkpoint=True, samples=1),
    }
    positive, negative = host.conditioning(), host.conditioning(seed=5)
    guidance = host.call("PosteriorDPS", measurement=measurement(2), form="published", strength=1.0, vae=vae[0])
    sampler = host.call("PosteriorGuidedDDIM", amount=0.0, noise_rule="eta", guidance=guidance)
    latent = host.latent(2, 4, 8, 8)
    plain, _ = host.sample(sd15[0], sampler, SIGMAS, latent, positive, negative, cfg=3.0)
    monkeypatch.setattr(run, "reserve", lambda *_: ways[plan])
    before = host.objects(sd15[0].model)
    other, _ = host.sample(sd15[0], sampler, SIGMAS, latent, positive, negative, cfg=3.0)
    assert all(a is b for a, b in zip(before, host.objects(sd15[0].model), strict=True))
    assert (plain - other).abs().max() < ROUNDING * plain.abs().max()


def test_a_batch_is_its_samples_run_alone(host, sd15, vae):
    """Measurement, residual norm and gradient belong to one sample each."""
    measured = measurement(2)
    both = host.call("PosteriorDPS", measurement=measured, form="published", strength=1.0, vae=vae[0])
    latent = host.latent(2, 4, 8, 8)
    ddim = {"amount": 0.0, "noise_rule": "eta"}
    together, _ = host.sample(
        sd15[0], host.call("PosteriorGuidedDDIM", guidance=both, **ddim), SIGMAS, latent, host.conditioning()
    )
    for i in range(2):
        own = Measurement(measured.operator, measured.y[i : i + 1], measured.noise)
        guidance = host.call("PosteriorDPS", measurement=own, form="published", strength=1.0, vae=vae[0])
        sampler = host.call("PosteriorGuidedDDIM", guidance=guidance, **ddim)
        single = {**host.latent(1, 4, 8, 8), "batch_index": [i]}
        alone, _ = host.sample(sd15[0], sampler, SIGMAS, single, host.conditioning())
        assert (alone - together[i : i + 1]).abs().max() < ROUNDING * together.abs().max()


def test_controlnet(host, sd15, vae, folder):
    """ControlNet is added in place to tensors that the backward pass needs; a finite difference is the reference."""
    import comfy.controlnet

    with torch.inference_mode():
        net = comfy.controlnet.load_controlnet(str(tiny_models.controlnet(folder / "control.safetensors")))
        hint = torch.rand(1, 64, 64, 3, generator=torch.manual_seed(3))
    conditioning = host.call(
        "ControlNetApplyAdvanced", positive=host.conditioning(), negative=host.conditioning(), control_net=net,
        image=hint, strength=0.8, start_percent=0.0, end_percent=1.0,
    )[0]  # fmt: skip
    check_directional_derivative(host, sd15[0], vae[0], conditioning)


def test_inpainting_checkpoint(host, vae, folder):
    """A model that was trained to be told the masked picture (9 channels) is a prior like any other."""
    model = tiny_models.load(tiny_models.sd15(folder / "inpaint.safetensors", levels=2, in_channels=9))
    with torch.inference_mode():
        picture = torch.rand(1, 64, 64, 3, generator=torch.manual_seed(3))
        mask = torch.zeros(1, 64, 64)
        mask[:, 32:] = 1
    told, _, _ = host.call(
        "InpaintModelConditioning", positive=host.conditioning(), negative=host.conditioning(), vae=vae[0],
        pixels=picture, mask=mask, noise_mask=False,
    )  # fmt: skip
    check_directional_derivative(host, model, vae[0], told)


def check_directional_derivative(host, model, vae, conditioning):
    """DPS's step against a central difference of the residual norm, both through the host's own model call.

    x_s = DDIM(x_t) + c zeta grad: along a direction d the guided and the unguided step differ by c zeta (grad . d).
    """
    measured = measurement()
    latent, zeta = host.latent(1, 4, 8, 8), 1.0
    guidance = host.call("PosteriorDPS", measurement=measured, form="published", strength=zeta, vae=vae)
    ddim = {"amount": 0.0, "noise_rule": "eta"}
    guided, _ = host.sample(
        model, host.call("PosteriorGuidedDDIM", guidance=guidance, **ddim), SIGMAS, latent, conditioning
    )
    start = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(1))

    scale = model.model.latent_format.scale_factor

    def residual(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """norm(y - A decode(x0_hat)) at x_t = sigma_t z, and the unguided step."""
        picture = {"samples": SIGMAS[0] * (z - start) / scale}
        with torch.inference_mode():
            state, denoised = host.sample(model, "euler", SIGMAS, picture, conditioning)
            image = vae.first_stage_model.decode(denoised.double())
            r = measured.y - measured.operator.forward((image + 1) / 2)
            return r.flatten().double().norm(), state

    sigma, following = SIGMAS.tolist()
    _, unguided = residual(start)
    gradient = (guided - unguided) * scale / (following**2 + 1) ** 0.5 / (-zeta * 2 * (sigma**2 + 1) ** 0.5)
    direction = gradient / gradient.norm()  # where the derivative is largest, so that rounding matters least
    step = 1e-2
    slope = (residual(start + step * direction)[0] - residual(start - step * direction)[0]) / (2 * step * sigma)
    # within 0.3 %: what a step of this length leaves out
    assert slope.item() == pytest.approx(gradient.norm().item(), rel=0.03)


def test_regional_loras_by_hooks(host, sd15, vae, folder):
    """Two hooks write their weights into the same storage within one prediction; each needs its own in the backward."""
    import comfy.hooks
    import comfy.utils

    conditioning = []
    for seed in (1, 2):
        with torch.inference_mode():
            lora = comfy.utils.load_torch_file(str(tiny_models.lora(folder / f"lora{seed}.safetensors", sd15[1], seed)))
            hooks = comfy.hooks.create_hook_lora(lora, strength_model=0.7, strength_clip=0.0)
            mask = torch.zeros(1, 8, 8)
            mask[..., 4 * (seed - 1) : 4 * seed] = 1
            own = comfy.hooks.set_hooks_for_conditioning(host.conditioning(seed=seed), hooks)
            region = {"mask": mask, "strength": 1.0, "set_cond_area": "default"}
            conditioning += host.call("ConditioningSetMask", conditioning=own, **region)
    before = host.objects(sd15[0].model)
    weights = [value.clone() for value in sd15[0].model.state_dict().values()]
    check_directional_derivative(host, sd15[0], vae[0], conditioning)
    assert all(a is b for a, b in zip(before, host.objects(sd15[0].model), strict=True))
    after = sd15[0].model.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(weights, after, strict=True))


def test_sdxl(host, vae, folder):
    """The smallest network that the host takes for an SDXL, with its size and pooled text conditioning."""
    model = tiny_models.load(tiny_models.sdxl(folder / "sdxl.safetensors"))
    assert type(model.model).__name__ == "SDXL"
    check_directional_derivative(host, model, vae[0], host.conditioning(width=2048, pooled=1280))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_weights_of_other_precision_and_a_lora(host, sd15, vae, folder, dtype):
    """Weights that the host casts at each call, with a LoRA patched in."""
    import comfy.sd
    import comfy.utils

    with torch.inference_mode():
        model = tiny_models.load(sd15[1], dtype)
        lora = comfy.utils.load_torch_file(str(tiny_models.lora(folder / "lora.safetensors", sd15[1])))
        model, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0.0)
    assert next(model.model.diffusion_model.parameters()).dtype == dtype
    check_directional_derivative(host, model, vae[0], host.conditioning())


def test_out_of_memory_is_met_by_smaller_pieces(host, sd15, vae):
    """A network that cannot hold two samples with their graph: the step is made again until it can, with one result."""
    import comfy.patcher_extension

    latent, sizes = host.latent(4, 4, 8, 8), []
    guidance = host.call("PosteriorDPS", measurement=measurement(4), form="published", strength=1.0, vae=vae[0])
    sampler = host.call("PosteriorGuidedDDIM", amount=0.0, noise_rule="eta", guidance=guidance)
    expected, _ = host.sample(sd15[0], sampler, SIGMAS, latent, host.conditioning())

    def narrow(limit: int):
        def refuse(executor, x, *args, **kwargs):
            sizes.append(len(x))
            if torch.is_grad_enabled() and len(x) > limit:
                raise torch.cuda.OutOfMemoryError("no more")
            return executor(x, *args, **kwargs)

        model = sd15[0].clone()
        # after ours, as an allocation within the network would be
        kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        model.add_wrapper_with_key(kind, "narrow", refuse)
        return model

    got, _ = host.sample(narrow(1), sampler, SIGMAS, latent, host.conditioning())
    # plain, with checkpoints in the model, in the VAE, with the VAE in tiles, then two samples and one at a time
    assert sizes[:6] == [4, 4, 4, 4, 2, 1]
    assert (got - expected).abs().max() < ROUNDING * expected.abs().max()
    with pytest.raises(torch.cuda.OutOfMemoryError, match="lower the size of the picture, or choose DDNM or DiffPIR"):
        host.sample(narrow(0), sampler, SIGMAS, latent, host.conditioning())


def test_quantised_weights_become_normal(host):
    """A wrapper around plain tensors keeps its values, and a gradient passes."""
    from comfy.quant_ops import QuantizedTensor

    from posterior.host.autograd.gradients import GradientScope

    with torch.inference_mode():
        layer = Linear(8, 4, bias=False)
        quantised = QuantizedTensor.from_float(torch.randn(4, 8), "TensorCoreFP8Layout")
        layer.weight = torch.nn.Parameter(quantised, requires_grad=False)
        exact = quantised.dequantize()
    before = layer.weight
    assert before.is_inference()
    with GradientScope([layer]):
        assert layer.weight is not before and isinstance(layer.weight, QuantizedTensor)
        assert not layer.weight._qdata.is_inference()
        assert torch.equal(layer.weight.dequantize(), exact)
        x = torch.randn(3, 8, requires_grad=True)
        (gradient,) = torch.autograd.grad((x @ layer.weight.dequantize().T).sum(), x)
        # sums of four float32 numbers near 1
        assert torch.allclose(gradient, exact.clone().sum(0).expand(3, 8), atol=1e-5)
    assert layer.weight is before
