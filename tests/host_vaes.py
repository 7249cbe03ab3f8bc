"""The host's VAE objects around small networks, and the pack's functions of them."""

from __future__ import annotations

from pathlib import Path

import tiny_models
import torch
from torch import nn


class Unscaled:
    """A latent format that leaves latents as they are."""

    def process_in(self, latent):
        return latent

    process_out = process_in


def load_taesd(path: Path):
    """A TAESD with random weights, through the host's loader."""
    return tiny_models.load_vae(tiny_models.vae(path))


def vae_of(taesd, network: nn.Module, dtype=torch.float32, **fields):
    """A VAE object of the host around another network."""
    import copy

    import comfy.model_patcher

    vae = copy.copy(taesd)
    vae.first_stage_model = network.eval().requires_grad_(False).to(dtype)
    vae.patcher = comfy.model_patcher.ModelPatcher(network, load_device=vae.device, offload_device=vae.device)
    vae.vae_dtype = dtype
    for name, value in fields.items():
        setattr(vae, name, value)
    return vae


def narrow_kl(seed: int = 0) -> nn.Module:
    """The autoencoder of SD with a quarter of its channels, random weights."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    config = {
        "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 2, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    network = AutoencoderKL(ddconfig=config, embed_dim=4)
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.data = noise / weight[0].numel() ** 0.5 if weight.ndim > 1 else 1 + 0.1 * noise
    return network


def autoencoder(vae, picture=(64, 64), latent=(8, 8), **plan):
    from posterior.host.autograd.memory_plan import MemoryPlan
    from posterior.host.spaces.vae import Autoencoder

    return Autoencoder(vae, Unscaled(), picture, latent, MemoryPlan(**plan))
