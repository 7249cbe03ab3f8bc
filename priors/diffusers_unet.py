"""Checkpoints of diffusers' UNet2DModel, translated into those of the same network in `adm.py`.

The two differ in names, in how q, k and v are stored, and in details that diffusers writes into config.json.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from ..algebra.refusal import Refusal

_LAYERS = (
    (r"\.norm1\.", ".in_layers.0."), (r"\.conv1\.", ".in_layers.2."), (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."), (r"\.conv2\.", ".out_layers.3."), (r"\.conv_shortcut\.", ".skip_connection."),
    (r"\.group_norm\.", ".norm."), (r"\.(to_out\.0|proj_attn)\.", ".proj_out."),
    (r"\.query\.", ".to_q."), (r"\.key\.", ".to_k."), (r"\.value\.", ".to_v."),
    (r"^time_embedding\.linear_1\.", "time_embed.0."), (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^conv_in\.", "input_blocks.0.0."), (r"^conv_norm_out\.", "out.0."), (r"^conv_out\.", "out.2."),
    (r"^class_embedding\.", "label_emb."), (r"^(input_blocks\.\d+\.0)\.conv\.", r"\1.op."),
)  # fmt: skip
#: settings that change the network in ways that are not built here, with the values that do not
_SUPPORTED = {
    "time_embedding_type": ("positional",), "act_fn": ("silu", "swish"), "center_input_sample": (False,),
    "mid_block_scale_factor": (1, 1.0), "class_embed_type": (None,), "mid_block_type": ("UNetMidBlock2D",),
    "freq_shift": (0, 1),
}  # fmt: skip
#: settings that are positive numbers
_NUMBERS = ("attention_head_dim", "norm_num_groups", "norm_eps")


def options(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `ADM` that config.json decides.

    Raises:
        Refusal: when it asks for what is not built here.
    """
    for key, known in _SUPPORTED.items():
        if config.get(key, known[0]) not in known:
            raise Refusal(f"This UNet2DModel has {key} = {config[key]}, which is not supported; choose another model.")
    for key in _NUMBERS:
        number = config.get(key) if config.get(key) is not None else 1
        if not isinstance(number, (int, float)) or number <= 0:
            raise Refusal(f"The config.json beside the model has {key} = {number}; take it from the author again.")
    return {
        "head_channels": config.get("attention_head_dim", 8), "interleaved": False,
        "groups": config.get("norm_num_groups", 32), "eps": config.get("norm_eps", 1e-5),
        "sine_first": not config.get("flip_sin_to_cos", True), "frequency_shift": config.get("freq_shift", 0),
        "asymmetric": config.get("downsample_padding", 1) == 0,
    }  # fmt: skip


def translate(sd: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under the names of `ADM`; KeyError when a part of an attention is missing."""
    places = _places(sd)
    result: dict[str, Tensor] = {}
    for key, value in sd.items():
        block = re.match(r"(?:(?:down|up)_blocks\.\d+|mid_block)\.\w+\.\d+(?=\.)", key)
        name = places[block[0]] + key[block.end() :] if block else key
        for pattern, replacement in _LAYERS:
            name = re.sub(pattern, replacement, name)
        if re.search(r"\.(to_[qkv]|proj_out)\.weight$", name):
            value = value.flatten(1)[..., None]  # linear layers here, convolutions of one pixel there
        result[name] = value
    for key in [key for key in result if ".to_q." in key]:
        parts = [result.pop(key.replace("to_q", part)) for part in ("to_q", "to_k", "to_v")]
        result[key.replace("to_q", "qkv")] = torch.cat(parts)
    return result


def _places(sd: dict[str, Tensor]) -> dict[str, str]:
    """Where each block of diffusers (`down_blocks.0.resnets.1`) stands in ADM's flat lists."""

    def count(prefix: str) -> int:
        return len({key[len(prefix) :].split(".")[0] for key in sd if key.startswith(prefix)})

    places, index = {}, 1
    for side, flat in (("down", "input_blocks"), ("up", "output_blocks")):
        for i in range(count(f"{side}_blocks.")):
            prefix = f"{side}_blocks.{i}."
            attention = count(f"{prefix}attentions.")
            for j in range(count(f"{prefix}resnets.")):
                places[f"{prefix}resnets.{j}"] = f"{flat}.{index}.0"
                places[f"{prefix}attentions.{j}"] = f"{flat}.{index}.1"
                index += 1
            if side == "down":  # a block of its own
                places[f"{prefix}downsamplers.0"] = f"{flat}.{index}.0"
                index += count(f"{prefix}downsamplers.")
            else:  # the end of the level's last block
                places[f"{prefix}upsamplers.0"] = f"{flat}.{index - 1}.{2 if attention else 1}"
        index = 0
    middle = [("resnets", 0), ("attentions", 0), ("resnets", 1)]
    places |= {f"mid_block.{kind}.{j}": f"middle_block.{k}" for k, (kind, j) in enumerate(middle)}
    return places
