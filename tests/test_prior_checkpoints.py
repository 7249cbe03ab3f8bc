"""The readers of published checkpoints against independent implementations with random weights."""

from __future__ import annotations

import pytest
import torch
from azula.plugins.adm._src.unet import UNetModel
from diffusers import UNet2DModel

from posterior.algebra.refusal import Refusal
from posterior.priors import diffusers_unet
from posterior.priors.adm import ADM

#: what differs between the published models: DPS's FFHQ and OpenAI's, 64 pixels class-conditional, an early one
ADM_CASES = {
    "ffhq": {"num_res_blocks": 1, "use_scale_shift_norm": True, "resblock_updown": True},
    "imagenet64": {
        "num_res_blocks": 2, "use_scale_shift_norm": True, "resblock_updown": True, "num_classes": 7,
        "use_new_attention_order": True,
    },
    "plain": {"num_res_blocks": 2, "out_channels": 3, "num_heads": 4, "num_head_channels": -1},
}  # fmt: skip
DIFFUSERS_CASES = {
    "ddpm": {
        "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6,
        "attention_head_dim": None,
    },
    "default": {"attention_head_dim": 8},
    "adm": {
        "attention_head_dim": 16, "resnet_time_scale_shift": "scale_shift", "num_class_embeds": 5,
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    },
    "resnet": {"attention_head_dim": 8, "downsample_type": "resnet", "upsample_type": "resnet", "layers_per_block": 1},
}  # fmt: skip


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """Random in every parameter, those that training starts at zero included."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.2 * noise if parameter.ndim == 1 else 0.7 * noise / parameter[0].numel() ** 0.5
    return network.eval()


def adm_reference(name: str):
    case = {"out_channels": 6, **ADM_CASES[name]}
    network = UNetModel(
        image_size=32, in_channels=3, model_channels=32, attention_resolutions=(2,), channel_mult=(1, 2, 2),
        **{"num_head_channels": 16, **case},
    )  # fmt: skip
    return randomised(network), case.get("num_classes", 0)


def diffusers_reference(name: str):
    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    case = {**blocks, **DIFFUSERS_CASES[name]}
    network = UNet2DModel(sample_size=32, block_out_channels=(32, 64), **case)
    return randomised(network), case.get("num_class_embeds") or 0


def ours(sd: dict[str, torch.Tensor], dtype=torch.float32, **options) -> ADM:
    network = ADM(**ADM.config_from_state_dict(sd), **options, dtype=dtype)
    network.load_state_dict(sd)
    return network.eval().requires_grad_(False)


def compare(network, reference, classes: int, label: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 16, 12, generator=generator)
    v = torch.randn(2, 3, 16, 12, generator=generator)
    t = torch.tensor([17.0, 803.0])
    y = {"y": torch.full((2,), label)} if classes else {}
    results = []
    for model, arguments in ((network, {}), (reference, y)):
        leaf = x.clone().requires_grad_()
        out = model(leaf, t, **arguments)
        out = out[:, :3]
        results.append((out, *torch.autograd.grad(out, leaf, v)))
    for mine, theirs in zip(*results, strict=True):
        assert (mine - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("name", ADM_CASES)
def test_adm_equals_the_reference(name):
    reference, classes = adm_reference(name)
    sd = reference.state_dict()
    case = ADM_CASES[name]
    interleaved = not case.get("use_new_attention_order", False)
    network = ours(sd, head_channels=16, heads=case.get("num_heads", 0), interleaved=interleaved, label=3)
    compare(network, reference, classes, 3)


@pytest.mark.parametrize("name", DIFFUSERS_CASES)
def test_diffusers_equals_the_reference(name):
    reference, classes = diffusers_reference(name)
    sd = diffusers_unet.translate(reference.state_dict())
    network = ours(sd, **diffusers_unet.options(dict(reference.config)), label=2)
    compare(network, lambda x, t, y=None: reference(x, t, class_labels=y).sample, classes, 2)


def test_half_precision_is_close():
    reference, _ = adm_reference("ffhq")
    network = ours(reference.state_dict(), torch.bfloat16, head_channels=16)
    x, t = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([300.0])
    exact = reference(x, t)[:, :3]
    leaf = x.bfloat16().requires_grad_()
    half = network(leaf, t)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).pow(2).mean().sqrt() < 0.03 * exact.std()
    (gradient,) = torch.autograd.grad(half.float().sum(), leaf)
    assert torch.isfinite(gradient).all()


def test_any_size_is_padded_and_cut():
    reference, _ = adm_reference("plain")
    network = ours(reference.state_dict(), head_channels=16)
    assert network(torch.zeros(1, 3, 30, 33), torch.tensor([5.0])).shape == (1, 3, 30, 33)


def test_what_does_not_fit_is_refused():
    reference, _ = adm_reference("imagenet64")
    sd = reference.state_dict()
    with pytest.raises(Refusal, match="0 to 6"):
        ours(sd, head_channels=16, label=7)
    with pytest.raises(Refusal, match="head"):
        ours(sd, head_channels=48)
    with pytest.raises(Refusal, match="fourier"):
        diffusers_unet.options({"time_embedding_type": "fourier"})
