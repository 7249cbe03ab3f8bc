"""Shortcuts of the host that have no gradient rest in guided steps: fp8 products and cached steps."""

from __future__ import annotations

import pytest
import torch
from test_host_gradients import folder, sd15, vae  # noqa: F401
from test_host_weights import guided, network_wrapper
from torch import Tensor, nn
from torch.nn import Linear

from posterior.algebra.refusal import Refusal


def exchanged(model, make):
    """The MODEL with make(layer) in the place of each Linear of its network."""
    with torch.inference_mode():
        for parent in list(model.model.diffusion_model.modules()):
            for name, child in list(parent._modules.items()):
                if isinstance(child, nn.Linear):
                    parent._modules[name] = make(child)
    return model


def fp8(weight: Tensor):
    from comfy.quant_ops import QuantizedTensor

    return QuantizedTensor.from_float(weight.clone(), "TensorCoreFP8Layout")


def mixed_precision(layer: nn.Linear) -> nn.Module:
    """As hosts load a checkpoint with fp8 weights and scales of the activations, on a card with fp8 products."""
    import comfy.ops

    ops = comfy.ops.mixed_precision_ops({}, torch.float32, full_precision_mm=False)
    new = ops.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="cpu")
    new.weight, new.layout_type = nn.Parameter(fp8(layer.weight), requires_grad=False), "TensorCoreFP8Layout"
    new.input_scale, new.bias = nn.Parameter(torch.tensor(0.02), requires_grad=False), layer.bias
    return new


def scaled(layer: nn.Linear) -> nn.Module:
    import comfy.ops

    ops = comfy.ops.scaled_fp8_ops(fp8_matrix_mult=True, override_dtype=torch.float8_e4m3fn)
    new = ops.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="cpu")
    weight = fp8(layer.weight)
    new.weight, new.bias = nn.Parameter(weight._qdata, requires_grad=False), layer.bias
    new.scale_weight = nn.Parameter(weight._layout_params["scale"], requires_grad=False)
    new.scale_input = nn.Parameter(torch.tensor(0.02), requires_grad=False)
    return new


def rounded(layer: nn.Linear) -> nn.Module:
    layer.weight = nn.Parameter(fp8(layer.weight).dequantize(), requires_grad=False)
    return layer


@pytest.mark.parametrize("make", [mixed_precision, scaled])
def test_quantised_products(host, sd15, vae, make):  # noqa: F811
    """Case B2: a step by full-precision products of the same weights; afterwards the layers are what they were."""
    import comfy.sd

    with torch.inference_mode():
        plain, quantised = (comfy.sd.load_diffusion_model(str(sd15[1])) for _ in range(2))
        layer = make(Linear(32, 16))
        try:
            assert not layer(torch.randn(1, 4, 32)).requires_grad
        except RuntimeError:
            pytest.skip("this torch has no fp8 products on the CPU")
    expected = guided(host, exchanged(plain, rounded), vae[0])
    exchanged(quantised, make)
    own = [name for name in vars(layer) if not name.startswith("__")]
    before = [{key: vars(each).get(key) for key in own} for each in quantised.model.modules()]
    got = guided(host, quantised, vae[0])
    assert (got - expected).abs().max() < 1e-3 * expected.abs().max()  # float32, summed in another order
    for layer, attributes in zip(quantised.model.modules(), before, strict=True):
        assert all(vars(layer).get(key) is value for key, value in attributes.items())
        assert "forward_comfy_cast_weights" not in vars(layer)


STEPS = torch.tensor([5.0, 4.5, 4.0, 3.5, 3.0])


@pytest.mark.parametrize("node", ["EasyCache", "LazyCache"])
def test_the_host_s_caches_rest_in_guided_steps(host, sd15, vae, node):  # noqa: F811
    """What is taken from a cache has no gradient."""
    inputs = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    cached = host.call(node, model=sd15[0], **inputs)
    unguided = [host.sample(model, "euler", STEPS, host.latent(1, 4, 8, 8), host.conditioning())[0]
                for model in (cached, sd15[0])]  # fmt: skip
    assert not torch.equal(*unguided)  # it does something
    assert torch.equal(guided(host, cached, vae[0], STEPS), guided(host, sd15[0], vae[0], STEPS))


def test_caches_of_other_packs_are_refused(host, sd15, vae):  # noqa: F811
    """They leave out the network, and with it its gradient, in some later step."""

    def around(executor, x, t, *args, **kwargs):
        times.append(t[0].item())
        if times[-1] < times[0]:
            return x + held[-1]
        output = executor(x, t, *args, **kwargs)
        held.append((output - x).detach())
        return output

    times, held = [], []
    with pytest.raises(Refusal, match="a cache"):
        guided(host, network_wrapper(sd15[0], around), vae[0], STEPS)
    assert times[-1] < times[0]
