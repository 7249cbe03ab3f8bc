"""Checkpointing: how much memory it saves, and which blocks run again."""

from __future__ import annotations

from collections import Counter

import pytest
import tiny_models
import torch
from allocations import allocations

from posterior.priors.unet import PhotoUNet


def test_checkpointing_cuts_the_peak_by_forty_percent(host, tmp_path):
    """One gradient pass through the SD1.5-shaped network; the share is the same at every size of the latent."""
    from posterior.host.autograd.calls import DifferentiableCalls
    from posterior.host.autograd.gradients import GradientScope
    from posterior.host.autograd.memory_plan import MemoryPlan

    model = tiny_models.load(tiny_models.sd15(tmp_path / "sd15.safetensors", levels=2)).model
    peaks, gradients = [], []
    for sparing in (False, True):
        with GradientScope([model]) as scope, torch.inference_mode(False):
            calls = DifferentiableCalls(scope, MemoryPlan(out_of_place=sparing, checkpoint=sparing))
            options = calls.options({})["transformer_options"]
            x = torch.randn(1, 4, 24, 24, generator=torch.manual_seed(0)).requires_grad_()
            context = host.conditioning()[0][0].clone()

            def work(x=x, context=context, options=options) -> None:
                x0 = model.apply_model(x, torch.tensor([5.0]), c_crossattn=context, transformer_options=options)
                gradients.append(torch.autograd.grad(x0.square().sum(), x)[0])

            peaks.append(allocations(work, tmp_path / "trace.json")[0])
    assert peaks[1] < 0.6 * peaks[0]
    # the network is in float64
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5 * gradients[0].abs().max().item())


def sd15_network():
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    from posterior.benchmarks.latent import SD15

    return UNetModel(**SD15, device="meta", dtype=torch.float32)


def sdxl_network():
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.supported_models import SDXL

    config = {key: value for key, value in SDXL.unet_config.items() if key != "use_temporal_attention"}
    config |= {"num_classes": "sequential", "num_res_blocks": [2] * 3, "channel_mult": [1, 2, 4], "num_heads": -1}
    config |= {"num_head_channels": 64, "image_size": 32, "in_channels": 4, "out_channels": 4}
    config |= {"transformer_depth_middle": 10, "transformer_depth_output": [0] * 3 + [2] * 3 + [10] * 3}
    return UNetModel(**config, use_spatial_transformer=True, device="meta", dtype=torch.float32)


@pytest.mark.parametrize(
    "make, kinds", [(sd15_network, {"SpatialTransformer": 16}), (sdxl_network, {"BasicTransformerBlock": 70})]
)
def test_attention_alone_runs_again_where_it_holds_the_memory(host, make, kinds):
    from posterior.host.autograd.checkpointed import heavy_blocks

    assert Counter(type(block).__name__ for block in heavy_blocks(make())) == kinds


def test_all_blocks_run_again_where_there_is_little_attention(host):
    from posterior.host.autograd.checkpointed import blocks, heavy_blocks

    network = PhotoUNet()
    assert heavy_blocks(network) == blocks(network) != []
