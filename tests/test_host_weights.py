"""Gradients through whatever weights and patches people load: right against a finite difference, or refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_host_gradients import SIGMAS, check_directional_derivative, folder, measurement, sd15, vae  # noqa: F401
from torch import Tensor, nn
from torch.nn import Linear

from posterior.algebra.refusal import Refusal


def guided(host, model, vae, steps=SIGMAS, seed: int = 1):  # noqa: F811
    """One run of DPS."""
    guidance = host.call("PosteriorDPS", measurement=measurement(), form="published", strength=1.0, vae=vae)
    sampler = host.call("PosteriorGuidedDDIM", amount=0.0, noise_rule="eta", guidance=guidance)
    return host.sample(model, sampler, steps, host.latent(1, 4, 8, 8), host.conditioning(), seed=seed)[0]


def network_wrapper(model, function):
    """A clone of the MODEL with `function(executor, x, *args, **kwargs)` around its network."""
    import comfy.patcher_extension

    clone = model.clone()
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", function)
    return clone


class Packed(torch.Tensor):
    """int8 numbers as bytes with a scale beside them, whose shape is not that of the bytes: GGUF in small."""

    def __new__(cls, data: Tensor, scale: float = 1.0, of: tuple[int, ...] = ()):
        self = torch.Tensor._make_subclass(cls, data)
        self.scale, self.of = scale, of
        return self

    @property
    def shape(self) -> torch.Size:
        return torch.Size(getattr(self, "of", None) or self.size())

    def to(self, *args, **kwargs):
        return Packed(super().to(*args, **kwargs), self.scale, self.of)

    def detach(self):
        return self

    def numbers(self) -> Tensor:
        plain = torch.Tensor.view(self, torch.int8).as_subclass(torch.Tensor)
        return plain.float().reshape(self.of) * self.scale


class PackedLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.device).numbers(), self.bias)


def with_layers(model, change):
    """The MODEL after change(layer) for each Linear of its network, under inference mode as a loader would."""
    with torch.inference_mode():
        for layer in list(model.model.diffusion_model.modules()):
            if isinstance(layer, nn.Linear):
                change(layer)
    return model


@pytest.fixture
def own(host, sd15):  # noqa: F811
    """A MODEL of its own, which a test may change."""
    import comfy.sd

    with torch.inference_mode():
        return comfy.sd.load_diffusion_model(str(sd15[1]))


def in_precision(model, dtype: torch.dtype):
    """The MODEL with a network that computes in `dtype`, which the host avoids on a CPU."""
    with torch.inference_mode():
        model.model.diffusion_model.to(dtype)
    model.model.manual_cast_dtype, model.model.diffusion_model.dtype = None, dtype
    x = torch.ones(1, 8, 64, 40, dtype=dtype)
    try:
        F.scaled_dot_product_attention(x, x, x)
    except RuntimeError as error:
        pytest.skip(f"this torch has no attention in {dtype} on this processor: {error}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_doubtful_network_whose_gradient_is_right_passes(host, own, vae, dtype):  # noqa: F811
    """The check is none of precision: rounding must not be taken for a part that is missing."""

    def around(executor, x, *args, **kwargs):
        calls.append(torch.is_grad_enabled())
        return executor(x, *args, **kwargs)

    calls = []
    in_precision(own, dtype)
    assert torch.equal(guided(host, network_wrapper(own, around), vae[0]), guided(host, own, vae[0]))
    assert calls == [True, False, False, False, False, True]  # the check and the step


def packed(layer: nn.Linear) -> None:
    weight = layer.weight
    scale = weight.abs().max().item() / 127
    data = (weight / scale).round().to(torch.int8).view(torch.uint8).flatten()
    layer.weight = nn.Parameter(Packed(data, scale, tuple(weight.shape)), requires_grad=False)
    layer.__class__ = PackedLinear


def test_packed_weights_keep_their_class_and_attributes(host, own, vae):  # noqa: F811
    """Case B1."""
    from posterior.host.autograd.gradients import GradientScope

    model = with_layers(own, packed)
    layer = model.model.diffusion_model.time_embed[0]
    before = layer.weight
    with GradientScope([model.model]):
        assert type(layer.weight) is Packed and layer.weight.of == (1280, 320) and not layer.weight.is_inference()
        assert isinstance(layer.weight, nn.Parameter) and layer.weight.data_ptr() == before.data_ptr()
    assert layer.weight is before
    check_directional_derivative(host, model, vae[0], host.conditioning())


class Cast(torch.autograd.Function):
    """A kernel without a backward pass: what it gives carries no gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = F.linear(x, weight, bias)
        ctx.mark_non_differentiable(y)
        return y


class Foreign(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return Cast.apply(x, self.weight.to(x.dtype), self.bias.to(x.dtype) if self.bias is not None else None)


def foreign(layer: nn.Linear) -> None:
    layer.__class__ = Foreign


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_layers_that_cut_the_gradient_are_refused(host, own, vae, dtype):  # noqa: F811
    """Case B2, B3: kernels of other packs, between skip connections that carry a gradient."""
    in_precision(own, dtype)
    with pytest.raises(Refusal, match="leaves a part of the network out.*choose DDNM or DiffPIR"):
        guided(host, with_layers(own, foreign), vae[0])


@pytest.mark.parametrize("way", ["detached", "numpy", "no_grad"])
def test_a_network_without_gradient_is_refused(host, sd15, vae, way):  # noqa: F811
    """Case B3: TensorRT, Nunchaku."""

    def around(executor, x, *args, **kwargs):
        if way == "no_grad":
            with torch.no_grad():
                return executor(x, *args, **kwargs)
        output = executor(x, *args, **kwargs).detach()
        return torch.from_numpy(output.numpy()) if way == "numpy" else output

    with pytest.raises(Refusal, match="This model has no gradient; choose DDNM or DiffPIR"):
        guided(host, network_wrapper(sd15[0], around), vae[0])


def test_conds_that_run_without_gradient_are_refused(host, sd15, vae):  # noqa: F811
    """Case B9: a splitter of CFG that switches gradients off."""
    import comfy.patcher_extension

    def around(executor, *args, **kwargs):
        with torch.no_grad():
            return executor(*args, **kwargs)

    model = sd15[0].clone()
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, "test", around)
    with pytest.raises(Refusal, match="This model has no gradient; choose DDNM or DiffPIR"):
        guided(host, model, vae[0])


def test_the_host_s_split_over_devices_is_left_out_of_guided_calls(host, sd15, vae):  # noqa: F811
    """Case B9: with clones on other devices the conds run without gradient, without them on this one."""
    import comfy.patcher_extension

    def around(executor, model, conds, x, timestep, model_options):
        with torch.set_grad_enabled(torch.is_grad_enabled() and "multigpu_clones" not in model_options):
            return executor(model, conds, x, timestep, model_options)

    model = sd15[0].clone()
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, "test", around)
    model.model_options["multigpu_clones"] = {}
    assert torch.equal(guided(host, model, vae[0]), guided(host, sd15[0], vae[0]))


class Adapter:
    """Attention to a picture, in the manner of IPAdapter: layers of its own, attention beside all options."""

    def __init__(self, detached: bool = False):
        generator = torch.Generator().manual_seed(4)
        self.to_k, self.to_v = (Linear(768, 320, bias=False, dtype=torch.float64) for _ in range(2))
        for layer in (self.to_k, self.to_v):
            layer.weight.copy_(torch.randn(320, 768, generator=generator) / 768**0.5)
        self.embedding = torch.randn(1, 600, 768, generator=generator, dtype=torch.float64)
        self.gain = torch.full((320,), 2.0, dtype=torch.float64)
        self.detached = detached

    def __call__(self, q, k, v, options):
        from comfy.ldm.modules.attention import attention_sub_quad, optimized_attention

        heads = options["n_heads"]
        out = optimized_attention(q, k, v, heads)
        embedding = self.embedding.expand(len(q), -1, -1)
        own = attention_sub_quad(q, self.to_k(embedding), self.to_v(embedding), heads) * self.gain
        return out + (own.detach() if self.detached else own)


def adapted(model, detached: bool = False):
    with torch.inference_mode():
        clone = model.clone()
        adapter = Adapter(detached)
        for block in (("input", 1), ("middle", 0), ("output", 0), ("output", 1)):
            clone.set_model_attn2_replace(adapter, *block)
    return clone


def test_attention_patches(host, sd15, vae):  # noqa: F811
    """Case B4: layers and tensors that a patch made under inference mode, and a kernel that writes into `out=`."""
    check_directional_derivative(host, adapted(sd15[0]), vae[0], host.conditioning())


def test_an_attention_patch_that_cuts_the_gradient_is_refused(host, sd15, vae):  # noqa: F811
    """Case B4."""
    with pytest.raises(Refusal, match="leaves a part of the network out"):
        guided(host, adapted(sd15[0], detached=True), vae[0])


def compiled(model):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    clone = model.clone()
    set_torch_compile_wrapper(model=clone, backend="eager")
    return clone


def compiled_blocks(model):
    """As packs compile block after block."""
    for module in model.model.diffusion_model.modules():
        if type(module).__name__ == "BasicTransformerBlock":
            module.forward = torch.compile(module.forward, backend="eager")
    return model


@pytest.mark.parametrize("way", [compiled, compiled_blocks])
def test_compiled_networks(host, own, vae, way):  # noqa: F811
    expected = guided(host, own, vae[0])
    got = guided(host, way(own), vae[0])
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


BUFFER: dict[str, Tensor] = {}


class Streamed(nn.Linear):
    """A layer whose weight lies elsewhere and comes through one buffer, which the next layer overwrites."""

    hidden = False

    def forward(self, x: Tensor) -> Tensor:
        if "buffer" not in BUFFER:
            BUFFER["buffer"] = torch.empty(8_000_000, dtype=torch.uint8)
        weight = BUFFER["buffer"][: self.weight.numel() * 4].view(torch.float32).view(self.weight.shape)
        if self.hidden:  # by a copy that autograd does not see, as raw pointers make it
            weight.numpy()[...] = self.weight.numpy()
        else:
            weight.copy_(self.weight)
        return F.linear(x, weight, self.bias)


@pytest.mark.parametrize("hidden", [False, True], ids=["seen", "hidden"])
@pytest.mark.parametrize("made", ["guided", "unguided"])
def test_weights_through_one_buffer(host, own, vae, hidden, made, monkeypatch):  # noqa: F811
    """Case B9: the buffer is made in a guided step, or in an unguided one before, as an inference tensor."""
    expected = guided(host, own, vae[0])
    with_layers(own, lambda layer: setattr(layer, "__class__", Streamed))
    monkeypatch.setattr(Streamed, "hidden", hidden)
    BUFFER.clear()
    if made == "unguided":
        host.sample(own, "euler", SIGMAS, host.latent(1, 4, 8, 8), host.conditioning())
        assert BUFFER["buffer"].is_inference()
    got = guided(host, own, vae[0])
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def test_nothing_is_checked_in_the_common_case(host, sd15, vae, monkeypatch):  # noqa: F811
    """The host's own layers, a LoRA's weights and ControlNets need no further model call."""
    from posterior.host.autograd import calls

    monkeypatch.setattr(calls, "verify", None)
    guided(host, sd15[0], vae[0])
