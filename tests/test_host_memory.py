"""Checkpointing cuts the peak of a gradient pass, measured in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from posterior.priors.unet import PhotoUNet


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the kernel's account of a process")
def test_checkpointing_cuts_the_peak_by_forty_percent(tmp_path):
    def measure(way: str) -> tuple[float, float]:
        command = [sys.executable, str(Path(__file__).with_name("memory_probe.py")), way, str(tmp_path)]
        # glibc keeps what is freed below this size, and more of it in each thread: that is not the pass's memory
        exact = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        output = subprocess.run(command, capture_output=True, text=True, check=True, env=exact).stdout
        megabytes, norm = output.split()[-2:]
        return float(megabytes), float(norm)

    (plain, norm), (sparing, same) = measure("plain"), measure("checkpoint")
    assert sparing < 0.6 * plain
    assert same == pytest.approx(norm, rel=1e-4)


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
