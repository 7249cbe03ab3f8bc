"""A tiny random checkpoint of every picture family that the host knows, loaded and told apart by its own loader.

The loader finds a family by the names of its weights. Where its table then holds one width and depth only, those of the
released model, the sizes of the tiny one are put in their place (`load`).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tiny_models
import torch
from safetensors.torch import save_file
from torch import nn

FLUX = {
    "axes_dim": [4, 6, 6], "num_heads": 2, "mlp_ratio": 2.0, "theta": 10000, "out_channels": 16, "qkv_bias": True,
    "in_channels": 16, "hidden_size": 32, "context_in_dim": 12, "patch_size": 2, "vec_in_dim": 8, "depth": 1,
    "depth_single_blocks": 1,
}  # fmt: skip
CHROMA = {key: value for key, value in FLUX.items() if key != "vec_in_dim"} | {
    "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 32, "hidden_dim": 16, "n_layers": 1,
}  # fmt: skip
LUMINA = {
    "patch_size": 2, "in_channels": 16, "dim": 32, "cap_feat_dim": 12, "n_layers": 1, "n_refiner_layers": 1,
    "qk_norm": True, "n_heads": 2, "n_kv_heads": 1, "axes_dims": [4, 6, 6], "axes_lens": [300, 512, 512],
    "rope_theta": 10000.0, "ffn_dim_multiplier": 1.0, "multiple_of": 16,
}  # fmt: skip
WAN = {
    "model_type": "t2v", "dim": 32, "out_dim": 16, "num_heads": 2, "ffn_dim": 32, "num_layers": 1, "in_dim": 16,
    "patch_size": (1, 2, 2), "freq_dim": 16, "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True,
    "eps": 1e-6, "text_dim": 12,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A row of the table.

    Args:
        name: of the host's class in `comfy.supported_models`.
        image_model: the host's name in its table, None where it has none.
        sizes: what the network is built with.
        vae: one of `vae_for`.
        marks: sizes of the released model by which the host's table tells it from others.
        width, pooled, extra: of the prompt; `extra` are shapes of more embeddings that it brings.
        reference: whether the model takes pictures to edit.
        side: of the smallest picture that it can make, or a small one.
        file: the function of `tiny_models` that makes its checkpoint, where the host reads all sizes off it.
    """

    name: str
    image_model: str | None
    sizes: dict[str, Any]
    vae: str = "patches16"
    marks: dict[str, Any] = field(default_factory=dict)
    width: int = 12
    pooled: int = 0
    extra: dict[str, tuple[int, ...]] = field(default_factory=dict)
    reference: bool = False
    side: int = 64
    file: str = ""


FAMILIES = [
    Family("SD15", None, {}, "patches4", width=768, file="sd15"),
    Family("SDXL", None, {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 64, "num_res_blocks": [1, 1],
        "channel_mult": [1, 1], "use_spatial_transformer": True, "use_linear_in_transformer": True,
        "transformer_depth": [0, 1], "transformer_depth_middle": 1, "transformer_depth_output": [0, 0, 1, 1],
        "context_dim": 12, "num_classes": "sequential", "adm_in_channels": 8 + 6 * 256}, "patches4", marks={
        "model_channels": 320, "context_dim": 2048, "adm_in_channels": 2816,
        "transformer_depth": [0, 0, 2, 2, 10, 10]}, pooled=8),
    Family("SD3", None, {}, width=4096, pooled=2048, file="sd3"),
    Family("AuraFlow", None, {"max_seq": 64, "cond_seq_dim": 12, "n_double_layers": 1, "n_layers": 2, "dim": 32,
                              "n_heads": 2, "global_conddim": 16}, "patches4", marks={"cond_seq_dim": 2048}),
    Family("PixArtAlpha", "pixart_alpha", {
        "num_heads": 2, "patch_size": 2, "hidden_size": 24, "in_channels": 4, "depth": 1, "model_max_length": 4,
        "input_size": 64, "pe_interpolation": 1, "micro_condition": True, "caption_channels": 12},
        "patches4", side=272),
    Family("PixArtSigma", "pixart_sigma", {
        "num_heads": 2, "patch_size": 2, "hidden_size": 24, "in_channels": 4, "depth": 1, "model_max_length": 4,
        "input_size": 64, "pe_interpolation": 1, "micro_condition": False, "caption_channels": 12},
        "patches4", side=272),
    Family("HunyuanDiT", "hydit", {"depth": 2, "hidden_size": 32, "num_heads": 2, "text_states_dim": 12,
                                   "text_states_dim_t5": 16, "text_len": 4, "text_len_t5": 4}, "patches4",
           extra={"conditioning_mt5xl": (4, 16), "attention_mask": (4,), "attention_mask_mt5xl": (4,)}),
    Family("Flux", "flux", FLUX | {"guidance_embed": True}, pooled=8, reference=True),
    Family("FluxSchnell", "flux", FLUX | {"guidance_embed": False}, pooled=8),
    Family("Flux2", "flux2", FLUX | {
        "axes_dim": [4, 4, 4, 4], "in_channels": 128, "out_channels": 128, "patch_size": 1, "vec_in_dim": None,
        "qkv_bias": False, "ops_bias": False, "global_modulation": True, "mlp_silu_act": True,
        "default_ref_method": "index", "ref_index_scale": 10.0, "guidance_embed": True},
        "flux2", pooled=8, reference=True),
    Family("Lumina2", "lumina2", LUMINA),
    Family("ZImage", "lumina2", LUMINA | {
        "dim": 256, "n_heads": 16, "n_kv_heads": 16, "ffn_dim_multiplier": 0.1, "z_image_modulation": True,
        "time_scale": 1000.0, "pad_tokens_multiple": 4}, marks={"dim": 3840}),
    Family("HiDream", "hidream", {
        "attention_head_dim": 16, "axes_dims_rope": [8, 4, 4], "caption_channels": [12, 12],
        "max_resolution": [128, 128], "in_channels": 16, "llama_layers": [0, 1], "num_attention_heads": 2,
        "num_routed_experts": 2, "num_activated_experts": 1, "num_layers": 1, "num_single_layers": 1,
        "out_channels": 16, "patch_size": 2, "text_emb_dim": 8}, pooled=8, extra={"conditioning_llama3": (2, 4, 12)}),
    Family("Chroma", "chroma", CHROMA, pooled=8),
    Family("ChromaRadiance", "chroma_radiance", CHROMA | {
        "in_channels": 3, "out_channels": 3, "patch_size": 16, "nerf_hidden_size": 8, "nerf_mlp_ratio": 2,
        "nerf_depth": 1, "nerf_max_freqs": 2, "nerf_tile_size": 512, "nerf_final_head_type": "conv",
        "nerf_embedder_dtype": torch.float32}, "pixels", pooled=8),
    Family("Omnigen2", "omnigen2", {
        "axes_dim_rope": [4, 6, 6], "axes_lens": [64, 64, 64], "ffn_dim_multiplier": None, "hidden_size": 32,
        "in_channels": 16, "multiple_of": 16, "norm_eps": 1e-5, "num_attention_heads": 2, "num_kv_heads": 1,
        "num_layers": 1, "num_refiner_layers": 1, "out_channels": None, "patch_size": 2, "text_feat_dim": 12,
        "timestep_scale": 1000.0}, extra={"attention_mask": (4,)}, reference=True),
    Family("QwenImage", "qwen_image", {
        "in_channels": 64, "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 12, "axes_dims_rope": (4, 6, 6)}, "wan", reference=True),
    Family("WAN21_T2V", "wan2.1", WAN, "wan"),
    Family("WAN22_T2V", "wan2.1", WAN | {"in_dim": 48, "out_dim": 48}, "wan2.2"),
    Family("CosmosT2IPredict2", "cosmos_predict2", {
        "max_img_h": 64, "max_img_w": 64, "max_frames": 8, "in_channels": 16, "out_channels": 16, "patch_spatial": 2,
        "patch_temporal": 1, "model_channels": 48, "concat_padding_mask": True, "crossattn_emb_channels": 12,
        "pos_emb_cls": "rope3d", "pos_emb_learnable": True, "pos_emb_interpolation": "crop", "min_fps": 1,
        "max_fps": 30, "use_adaln_lora": True, "adaln_lora_dim": 8, "num_blocks": 1, "num_heads": 2,
        "extra_per_block_abs_pos_emb": False, "rope_h_extrapolation_ratio": 4.0, "rope_w_extrapolation_ratio": 4.0,
        "rope_t_extrapolation_ratio": 1.0, "extra_h_extrapolation_ratio": 1.0, "extra_w_extrapolation_ratio": 1.0,
        "extra_t_extrapolation_ratio": 1.0, "rope_enable_fps_modulation": False}, "wan"),
    Family("HunyuanImage21", "hunyuan_video", {
        "in_channels": 64, "patch_size": [1, 1], "out_channels": 64, "vec_in_dim": None, "axes_dim": [8, 8],
        "meanflow": False, "context_in_dim": 12, "hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1,
        "depth_single_blocks": 1, "theta": 256, "qkv_bias": True, "byt5": False, "guidance_embed": False,
        "use_cond_type_embedding": False, "vision_in_dim": None}, "hunyuan"),
]  # fmt: skip


def weights(family: Family, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights with a gain near 1, under the names that the host gives them."""
    import comfy.supported_models

    config = getattr(comfy.supported_models, family.name)(_config(family))
    config.set_inference_dtype(torch.float32, None)
    return drawn(config.get_model({}, device="meta").diffusion_model, seed)


def drawn(network: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for key, value in network.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim > 1 and "norm" not in key and "gamma" not in key:
            made[key] = noise / math.sqrt(max(value[0].numel(), 1))
        else:
            scales = ("weight", "scale", "gamma", "running_var")
            made[key] = 0.05 * noise + float(key.endswith(scales) or "norm.key" in key)
    return made


def _config(family: Family) -> dict[str, Any]:
    return {**family.sizes, **({"image_model": family.image_model} if family.image_model else {})}


def load(family: Family, monkeypatch, dtype: torch.dtype = torch.float64):
    """A MODEL, by the host's loader."""
    import comfy.model_detection
    import comfy.sd

    if family.file:
        with TemporaryDirectory() as folder:
            return tiny_models.load(getattr(tiny_models, family.file)(Path(folder, "model.safetensors")), dtype)
    choose = comfy.model_detection.model_config_from_unet_config

    def tiny(unet_config: dict, *args, **kwargs):
        assert unet_config.get("image_model") == family.image_model
        chosen = choose({**unet_config, **family.marks}, *args, **kwargs)
        chosen.unet_config.update(_config(family))
        return chosen

    with torch.inference_mode(), monkeypatch.context() as patch:
        patch.setattr(comfy.model_detection, "model_config_from_unet_config", tiny)
        return comfy.sd.load_diffusion_model_state_dict(weights(family), model_options={"dtype": dtype})


def save(family: Family, path: Path) -> None:
    """A file for a server that knows `server_nodes/tiny_sizes.py`."""
    sizes = {key: value for key, value in family.sizes.items() if not isinstance(value, torch.dtype)}
    said = {"tiny_sizes": json.dumps(sizes), "tiny_marks": json.dumps(family.marks)}
    save_file(weights(family), path, metadata=said)


#: of Wan's VAEs
_VIDEO = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "temperal_downsample": [False, True, True]}


def _wan_vae() -> dict[str, torch.Tensor]:
    from comfy.ldm.wan.vae import WanVAE

    return drawn(WanVAE(dim=4, z_dim=16, **_VIDEO))


def save_wan_vae(path: Path) -> None:
    """A file of the VAE of Wan 2.1 and Qwen-Image."""
    save_file(_wan_vae(), path)


def vae_for(kind: str):
    """The VAE object of a family: by the host's loader where it takes narrow ones, else the host's around one."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL, AutoencodingEngine
    from comfy.ldm.wan import vae2_2 as wan22
    from comfy.taesd.taehv import TAEHV
    from comfy.taesd.taesd import TAESD
    from host_vaes import vae_of
    from patch_codec import PatchPCA

    if kind == "pixels":
        return None
    with torch.inference_mode():
        if kind == "wan":
            return comfy.sd.VAE(sd=_wan_vae(), dtype=torch.float64)
        if kind == "taehv":
            return comfy.sd.VAE(sd=drawn(TAEHV(latent_channels=16)), dtype=torch.float64)
        made = comfy.sd.VAE(sd=TAESD().state_dict())
        if kind.startswith("patches"):
            channels = int(kind.removeprefix("patches"))
            return vae_of(made, PatchPCA(channels), torch.float64, latent_channels=channels)
        if kind == "wan2.2":
            ratio, frames = 16, lambda n: 4 * n - 3
            network = wan22.WanVAE(dim=8, z_dim=48, dec_dim=8, **_VIDEO)
            fields = {
                "latent_channels": 48, "latent_dim": 3, "downscale_ratio": (None, ratio, ratio),
                "upscale_ratio": (frames, ratio, ratio),
            }  # fmt: skip
        elif kind == "flux2":
            config = {
                "double_z": True, "z_channels": 32, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
                "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
                "batch_norm_latent": True,
            }  # fmt: skip
            network = AutoencoderKL(ddconfig=config, embed_dim=32)
            fields = {"latent_channels": 128, "downscale_ratio": 16, "upscale_ratio": 16}
        else:
            config = {
                "block_out_channels": [32, 32, 64, 64, 128, 128], "in_channels": 3, "out_channels": 3,
                "num_res_blocks": 1, "ffactor_spatial": 32, "downsample_match_channel": True,
                "upsample_match_channel": True, "z_channels": 64,
            }  # fmt: skip
            network = AutoencodingEngine(
                regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
                encoder_config={"target": "comfy.ldm.hunyuan_video.vae.Encoder", "params": config},
                decoder_config={"target": "comfy.ldm.hunyuan_video.vae.Decoder", "params": config},
            )
            fields = {"latent_channels": 64, "downscale_ratio": 32, "upscale_ratio": 32}
        network.load_state_dict(drawn(network))
        vae = vae_of(made, network, torch.float64, **fields)
        vae.memory_used_decode = vae.memory_used_encode = lambda shape, dtype: 2**20
        return vae


def prompt(family: Family, seed: int = 0) -> list:
    """A random CONDITIONING of the widths that the network takes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        extra = {key: torch.randn(1, *shape, generator=generator) for key, shape in family.extra.items()}
        extra |= {key: torch.ones_like(value, dtype=torch.long) for key, value in extra.items() if "mask" in key}
        if family.pooled:
            extra["pooled_output"] = torch.randn(1, family.pooled, generator=generator)
        return [[torch.randn(1, 4, family.width, generator=generator), extra]]
