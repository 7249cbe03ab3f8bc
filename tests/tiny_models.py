"""Tiny checkpoints with random weights that the host's own loaders detect as SD1.5, SDXL and SD3, and their VAEs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


def load(path: Path, dtype: torch.dtype = torch.float64):
    """A MODEL, by the host's loader; in float64 a comparison says nothing of the processor's rounding.

    What remains in float32 are the host's own states: sigmas, latents, the prediction that leaves the network.
    """
    import comfy.sd

    with torch.inference_mode():
        return comfy.sd.load_diffusion_model(str(path), model_options={"dtype": dtype})


def load_vae(path: Path, dtype: torch.dtype = torch.float64):
    """A VAE, by the host's loader."""
    import comfy.sd
    import comfy.utils

    with torch.inference_mode():
        return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)), dtype=dtype)


def _save(network: nn.Module, path: Path, seed: int, prefix: str = "", dtype: torch.dtype = torch.float32) -> Path:
    """Random weights with a gain near 1, so that the output depends on the input all the way through."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, value in network.state_dict().items():
        if value.ndim > 1:
            gain = 0.1 if key in ("out.2.weight", "final_layer.linear.weight") else 1.0  # a modest prediction
            drawn = gain * torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5
        else:
            drawn = torch.full(value.shape, float(key.endswith("weight"))) + 0.05 * torch.randn(
                value.shape, generator=generator
            )
        weights[prefix + key] = drawn.to(dtype).contiguous()
    save_file(weights, path)
    return path


def sd15(path: Path, seed: int = 0, levels: int = 1, dtype: torch.dtype = torch.float32, in_channels: int = 4) -> Path:
    """A UNet of SD1.5's widths with one block a level; `levels` halvings less one, 320 channels throughout."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    network = UNetModel(
        image_size=8, in_channels=in_channels, out_channels=4, model_channels=320, num_res_blocks=[1] * levels,
        channel_mult=[1] * levels, num_heads=8, num_head_channels=-1, use_spatial_transformer=True,
        transformer_depth=[1] * levels, transformer_depth_middle=1, transformer_depth_output=[1] * (2 * levels),
        context_dim=768, dtype=torch.float32,
    )  # fmt: skip
    return _save(network, path, seed, dtype=dtype)


def sdxl(path: Path, seed: int = 0) -> Path:
    """A UNet that is detected as Segmind Vega, an SDXL: the smallest whose depths the host knows."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    network = UNetModel(
        image_size=8, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[2, 2, 2],
        channel_mult=[1, 1, 1], num_head_channels=64, use_spatial_transformer=True, use_linear_in_transformer=True,
        transformer_depth=[0, 0, 1, 1, 2, 2], transformer_depth_middle=1,
        transformer_depth_output=[0, 0, 0, 1, 1, 1, 2, 2, 2], context_dim=2048, num_classes="sequential",
        adm_in_channels=2816, dtype=torch.float32,
    )  # fmt: skip
    return _save(network, path, seed, dtype=torch.float16)


def sd3(path: Path, seed: int = 0) -> Path:
    """A flow transformer of depth 1, width 64."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper

    context = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 64}}
    network = OpenAISignatureMMDITWrapper(
        input_size=None, patch_size=2, in_channels=16, depth=1, adm_in_channels=2048, context_embedder_config=context,
        pos_embed_max_size=16, num_patches=256, dtype=torch.float32, operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    return _save(network, path, seed)


def vae(path: Path, seed: int = 0, channels: int = 4) -> Path:
    """A TAESD autoencoder, 8 pixels a side."""
    from comfy.taesd.taesd import TAESD

    return _save(TAESD(latent_channels=channels), path, seed)


def controlnet(path: Path, seed: int = 0, levels: int = 1) -> Path:
    """A ControlNet for `sd15` of so many levels."""
    from comfy.cldm.cldm import ControlNet

    network = ControlNet(
        image_size=8, in_channels=4, hint_channels=3, model_channels=320, num_res_blocks=[1] * levels,
        channel_mult=[1] * levels, num_heads=8, num_head_channels=-1, use_spatial_transformer=True,
        transformer_depth=[1] * levels, transformer_depth_middle=1, context_dim=768, dtype=torch.float32,
    )  # fmt: skip
    return _save(network, path, seed, prefix="control_model.")


def lora(path: Path, checkpoint: Path, seed: int = 0, rank: int = 2) -> Path:
    """A LoRA over the attention of `sd15`, in the host's own key names."""
    from safetensors.torch import load_file

    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, value in load_file(checkpoint).items():
        if "attn1.to_q.weight" in key or "ff.net.2.weight" in key:
            name = "diffusion_model." + key.removesuffix(".weight")
            weights[f"{name}.lora_up.weight"] = torch.randn(value.shape[0], rank, generator=generator) / rank
            weights[f"{name}.lora_down.weight"] = torch.randn(rank, value.shape[1], generator=generator) / rank
    save_file(weights, path)
    return path


def sd15_checkpoint(path: Path, seed: int = 0) -> Path:
    """UNet, text encoder (CLIP-L at its true size, which the host fixes, in half precision) and VAE in one file."""
    import comfy.ops
    from comfy.clip_model import CLIPTextModel
    from safetensors.torch import load_file

    clip = json.loads(Path(comfy.__path__[0], "sd1_clip_config.json").read_text())
    text = CLIPTextModel(clip, torch.float16, "cpu", comfy.ops.disable_weight_init)
    parts = {"model.diffusion_model.": sd15(path, seed), "first_stage_model.": vae(path.with_suffix(".vae"), seed)}
    weights = {prefix + key: value for prefix, part in parts.items() for key, value in load_file(part).items()}
    text_part = _save(text, path, seed, "cond_stage_model.transformer.", torch.float16)
    save_file({**weights, **load_file(text_part)}, path)
    path.with_suffix(".vae").unlink()
    return path
