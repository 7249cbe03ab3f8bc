"""Graphs for frozen weights: the values and gradients of plain autograd, in less memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

F64 = torch.float64


@pytest.fixture(scope="module")
def frozen(host):
    from posterior.host.autograd.frozen import Frozen

    return Frozen


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def graph_of(function: Callable[[Tensor], Tensor], x: Tensor, weights=()) -> tuple[Tensor, Tensor, int]:
    """Value, gradient against a random direction, and bytes that the graph saves besides weights."""
    known, saved = {weight.untyped_storage().data_ptr() for weight in weights}, {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage  # kept, so that no address is used twice
        return tensor

    leaf = x.clone().requires_grad_()
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        y = function(leaf)
    direction = draw(*y.shape, seed=9, dtype=y.dtype)
    (once,) = torch.autograd.grad(y, leaf, direction, retain_graph=True)
    (again,) = torch.autograd.grad(y, leaf, direction)
    assert torch.equal(once, again)
    return y.detach(), once, sum(storage.nbytes() for storage in saved.values())


def compare(frozen, function, x: Tensor, weights=(), tolerance: float = 1e-10, rounded: bool = False) -> float:
    """Asserts equality with plain autograd; the bytes saved over those that it saves.

    Args:
        rounded: whether values are equal up to rounding only.
    """
    value, gradient, much = graph_of(function, x, weights)
    with frozen():
        same, close, little = graph_of(function, x, weights)
    assert (same - value).abs().max() <= (tolerance * value.abs().max() if rounded else 0)
    assert (close - gradient).abs().max() <= tolerance * gradient.abs().max()
    return little / much


@pytest.mark.parametrize(
    "stride, padding, dilation, groups, kernel",
    [
        (1, 1, 1, 1, (3, 3)), (2, 1, 1, 1, (3, 3)), (2, 0, 1, 1, (3, 3)), (1, 0, 1, 1, (1, 1)), (3, 2, 2, 1, (3, 3)),
        ((2, 1), (0, 2), (1, 2), 2, (2, 3)), (1, 1, 1, 4, (3, 3)), (4, 0, 1, 1, (2, 2)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("bias", [True, False])
def test_convolution(frozen, stride, padding, dilation, groups, kernel, bias):
    x, weight = draw(2, 4, 12, 11), draw(8, 4 // groups, *kernel, seed=1)
    offset = draw(8, seed=2) if bias else None
    weights = (weight, offset) if bias else (weight,)
    share = compare(frozen, lambda x: F.conv2d(x, weight, offset, stride, padding, dilation, groups), x, weights)
    assert share == 0


def test_convolutions_of_other_kinds_are_left_alone(frozen):
    x, weight = draw(2, 4, 12, 11), draw(8, 4, 3, 3, seed=1)
    for call in (
        lambda x: F.conv2d(x, weight, padding="same"),
        lambda x: F.conv2d(x[0], weight),
        lambda x: F.conv1d(x.flatten(2), weight[..., 0]),
    ):
        compare(frozen, call, x, (weight,))


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def multiplications(call: Callable[[], Tensor]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    "double",
    [
        doubled,
        lambda x: F.interpolate(x, size=(64, 72), mode="nearest"),
        lambda x: F.interpolate(x, scale_factor=(2, 2), mode="nearest-exact"),
        nn.Upsample(scale_factor=2),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_of_a_doubled_picture(frozen, double, bias):
    x, weight, offset = draw(2, 4, 32, 36), draw(8, 4, 3, 3, seed=1), draw(8, seed=2) if bias else None
    weights = (weight, offset) if bias else (weight,)

    def call(x: Tensor) -> Tensor:
        return F.conv2d(double(x), weight, offset, padding=1)

    compare(frozen, call, x, weights, 1e-14, rounded=True)
    plain = multiplications(lambda: call(x))
    with frozen():
        assert multiplications(lambda: call(x)) == plain * 4 / 9


OTHERWISE = {
    "changed after doubling": lambda x, w: F.conv2d(doubled(x).mul_(2), w, padding=1),
    "source changed": lambda x, w: (F.conv2d((y := x * 1, z := doubled(y), y.zero_())[1], w, padding=1), z)[0],
    "another factor": lambda x, w: F.conv2d(F.interpolate(x, scale_factor=3.0), w, padding=1),
    "another filter": lambda x, w: F.conv2d(F.interpolate(x, scale_factor=2.0, mode="bilinear"), w, padding=1),
    "no padding": lambda x, w: F.conv2d(doubled(x), w),
    "a stride": lambda x, w: F.conv2d(doubled(x), w, padding=1, stride=2),
    "groups": lambda x, w: F.conv2d(doubled(x), w[:, :2], padding=1, groups=2),
    "a larger kernel": lambda x, w: F.conv2d(doubled(x), w.repeat(1, 1, 2, 2)[..., :5, :5], padding=1),
    "small": lambda x, w: F.conv2d(doubled(x[..., :8, :8]), w, padding=1),
    "a sum": lambda x, w: F.conv2d(doubled(x) + 1, w, padding=1),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_only_doubled_pictures_are_taken_for_such(frozen, case):
    weight = draw(4, 4, 3, 3, seed=1)
    compare(frozen, lambda x: OTHERWISE[case](x, weight), draw(2, 4, 32, 36), (weight,))


CHAINS = {
    "in place": lambda x, w, b: F.silu(F.group_norm(x, 2, w, b, 1e-6), inplace=True),
    "new": lambda x, w, b: F.silu(F.group_norm(x, 2, w, b, 1e-6)),
    "without weights": lambda x, w, b: F.silu(F.group_norm(x, 2)),
    "twice": lambda x, w, b: F.silu(y := F.group_norm(x, 2, w, b)) * F.silu(y),
    "no norm": lambda x, w, b: F.silu(w[:, None, None] * x) + F.silu(x * 1, inplace=True),
    "two after another": lambda x, w, b: F.silu(F.silu(F.group_norm(x, 2, w, b), inplace=True), inplace=True),
    "norm changed in between": lambda x, w, b: F.silu(F.group_norm(x, 2, w, b).mul_(w[:, None, None])),
    "norm used besides": lambda x, w, b: torch.tanh(y := F.group_norm(x, 2, w, b)) + F.silu(y),
    "module": lambda x, w, b: nn.SiLU(inplace=True)(F.group_norm(x, num_groups=2, weight=w, bias=b)),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_norm_and_activation(frozen, chain):
    weight, bias = draw(4, seed=1), draw(4, seed=2)
    share = compare(frozen, lambda x: CHAINS[chain](3 * x, weight, bias), draw(2, 4, 6, 5), (weight, bias))
    assert share <= (0.55 if chain in ("in place", "new", "module", "without weights") else 1.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_precision_and_layout(frozen, dtype, layout):
    weights = [draw(8, 8, 3, 3, seed=1, dtype=dtype) / 8, draw(8, seed=2, dtype=dtype), draw(8, seed=3, dtype=dtype)]
    x = draw(2, 8, 16, 16, dtype=dtype).to(memory_format=layout)

    def block(x: Tensor) -> Tensor:
        return F.conv2d(F.silu(F.group_norm(x, 4, *weights[1:]), inplace=True), weights[0], padding=1)

    compare(frozen, block, x, weights, 4 * torch.finfo(dtype).eps)
    with frozen():
        y = block(x.requires_grad_())
        assert y.is_contiguous(memory_format=layout)
        assert torch.autograd.grad(y.sum(), x)[0].dtype == dtype


def test_weights_that_take_a_gradient_get_it(frozen):
    def gradients() -> tuple[Tensor, ...]:
        leaves = [draw(2, 4, 8, 8), draw(4, 4, 3, 3, seed=1), draw(4, seed=2), draw(4, seed=3)]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        x, kernel, gain, shift = leaves
        y = F.conv2d(F.silu(F.group_norm(x, 2, gain, shift)), kernel, shift, padding=1)
        return torch.autograd.grad(y.square().sum(), leaves)

    expected = gradients()
    with frozen():
        torch.testing.assert_close(gradients(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("inplace", [True, False])
def test_rectifier(frozen, inplace):
    share = compare(frozen, lambda x: F.relu(3 * x, inplace), draw(2, 4, 6, 5))
    assert share == 1 / 8  # bytes for float64


def test_tensors_of_inference_mode(frozen):
    """What the host made before the gradient began."""
    with torch.inference_mode():
        x = draw(2, 4, 6, 6)
    with frozen():
        for call in (F.silu, F.relu, lambda x: F.group_norm(x, 2), lambda x: F.conv2d(x, draw(4, 4, 3, 3))):
            assert torch.equal(call(x), call(x.clone()))


def test_gradients_of_gradients(frozen):
    """Right for convolution and rectifier, refused where the norm's part in it is not kept."""
    x, weight = draw(1, 4, 32, 32).requires_grad_(), draw(4, 4, 3, 3, seed=1) / 6

    def penalty(call: Callable[[Tensor], Tensor]) -> Tensor:
        (gradient,) = torch.autograd.grad(call(x).square().sum(), x, create_graph=True)
        return gradient.square().sum()

    def block(x: Tensor) -> Tensor:
        return F.relu(F.conv2d(doubled(F.conv2d(x, weight, padding=1)), weight, padding=1))

    (expected,) = torch.autograd.grad(penalty(block), x)
    with frozen():
        torch.testing.assert_close(torch.autograd.grad(penalty(block), x)[0], expected, rtol=1e-12, atol=1e-12)
        with pytest.raises(RuntimeError, match="differentiate twice"):
            penalty(lambda x: F.silu(F.group_norm(x, 2))).backward()


def drawn(network: nn.Module, seed: int = 0) -> nn.Module:
    """Frozen weights with a gain near 1, float64."""
    for i, weight in enumerate(list(network.parameters())):
        noise = draw(*weight.shape, seed=seed + i)
        weight.data = noise / weight[0].numel() ** 0.5 if weight.ndim > 1 else 1 + 0.1 * noise
    return network.eval().requires_grad_(False).double()


def kl() -> nn.Module:
    from comfy.ldm.models.autoencoder import AutoencoderKL

    config = {
        "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 2, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    return drawn(AutoencoderKL(ddconfig=config, embed_dim=4))


def taesd() -> nn.Module:
    from comfy.taesd.taesd import TAESD

    return drawn(TAESD())


@pytest.mark.parametrize("make, most", [(kl, 0.4), (taesd, 0.4)])
def test_autoencoders_of_the_host(frozen, make, most):
    network = make()
    weights = list(network.parameters())
    # the parts of a doubled picture are summed in another order: 1e-16 here and there, 5e-11 after all the norms
    assert compare(frozen, network.decode, draw(1, 4, 8, 8), weights, 1e-8, rounded=True) < most
    assert compare(frozen, network.encode, draw(1, 3, 64, 64), weights) < most


@pytest.mark.parametrize("checkpointed", [False, True])
def test_unet_of_the_host(frozen, checkpointed):
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    from posterior.host.autograd.calls import differentiable_attention
    from posterior.host.autograd.checkpointed import blocks, checkpointed_blocks
    from posterior.host.autograd.out_of_place import OutOfPlace

    network = UNetModel(
        image_size=8, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[1, 1], channel_mult=[1, 2],
        num_heads=2, num_head_channels=-1, use_spatial_transformer=True, transformer_depth=[1, 1],
        transformer_depth_middle=1, transformer_depth_output=[1] * 4, context_dim=16, dtype=F64,
    )  # fmt: skip
    network, x, context = drawn(network), draw(1, 4, 16, 16), draw(1, 7, 16, seed=1)
    options = {"optimized_attention_override": differentiable_attention}

    def predict(x: Tensor) -> Tensor:
        return network(x, torch.tensor([300.0], dtype=F64), context, transformer_options=options)

    if not checkpointed:
        assert compare(frozen, predict, x, list(network.parameters())) < 0.85
        return
    value, gradient, _ = graph_of(predict, x)
    with frozen(), OutOfPlace(), checkpointed_blocks(blocks(network), []):
        y = predict(leaf := x.clone().requires_grad_())
    (same,) = torch.autograd.grad(y, leaf, draw(*y.shape, seed=9))
    assert torch.equal(y, value)
    assert (same - gradient).abs().max() <= 1e-10 * gradient.abs().max()
