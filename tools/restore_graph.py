"""One workflow for many pictures: where the picture goes in, where the result comes out, what the reports say.

The node that loads the picture becomes the uploaded one and its mask; the one node that saves or shows the result
stays, the other pictures are left out. For 16 bits a picture v = (256 high + low) / 65535 goes in as two pictures of
8 bits, high / 255 and low / 255, blended by the host: (1 - 1/257) high / 255 + 1/257 low / 255 = v. It comes out as a
latent of the same numbers, 2 v - 1, which keeps 32 bits and goes through no VAE.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from .console import Failure
from .workflow import inputs_of, to_prompt

LOADERS = ("LoadImage", "PosteriorDamagedPhoto")
PICTURES = ("SaveImage", "PreviewImage")
DEEP = ("ImageBlend", "PosteriorIdentity", "PosteriorObserve", "PosteriorStartingPoint", "SaveLatent")
Prompt = dict[str, Any]


def prompt_of(workflow: dict[str, Any], object_info: dict[str, Any]) -> Prompt:
    """The prompt of a workflow as the editor saves it, or in the API format.

    Raises:
        Failure: when it is neither, or has nodes that the server lacks.
    """
    try:
        if isinstance(workflow.get("nodes"), list):
            return to_prompt(workflow, object_info)
        unknown = {node["class_type"] for node in workflow.values()} - set(object_info)
    except ValueError as error:
        raise Failure(str(error)) from None
    except (AttributeError, KeyError, TypeError):
        raise Failure("This is no workflow of ComfyUI: save one with Workflow > Save, or Export (API).") from None
    if unknown:
        raise Failure(f"This server has no node {', '.join(sorted(unknown))}.")
    return workflow


def ends(prompt: Prompt, picture: str | None = None, result: str | None = None) -> tuple[str, str]:
    """The ids of the node that loads the picture and of the one that has the result.

    Args:
        picture, result: ids that the user gave.

    Raises:
        Failure: when they are not there, or not the only ones.
    """
    loaders = [picture] if picture else _of(prompt, LOADERS)
    if len(loaders) != 1 or loaders[0] not in prompt:
        raise Failure(
            f"The workflow needs one Load Image (or Damaged Old Photo), and has {_listed(loaders, prompt)}; say which "
            "with --picture ID."
        )
    if result:
        results = [result]
    else:
        named = [node for node in _of(prompt, PICTURES) if _is_result(prompt[node])]
        results = named or _of(prompt, ("SaveImage",)) or _of(prompt, PICTURES)
        results = [node for node in results if prompt[node]["class_type"] == "SaveImage"] or results
    if len(results) != 1 or prompt.get(results[0], {}).get("class_type") not in PICTURES:
        raise Failure(
            f"The workflow needs one Save Image with the result, and has {_listed(results, prompt)}; title it "
            "Repaired, or say which with --result ID."
        )
    return loaders[0], results[0]


def wants_mask(prompt: Prompt, picture: str) -> bool:
    return any(link == [picture, 1] for node in prompt.values() for link in node["inputs"].values())


def can_be_deep(object_info: dict[str, Any]) -> bool:
    """Whether the server has what 16 bits need."""
    return set(DEEP) <= set(object_info)


def filled(
    prompt: Prompt,
    picture: str,
    result: str,
    files: list[str],
    mask: str | None,
    object_info: dict[str, Any],
    deep: bool,
) -> Prompt:
    """The prompt for one picture; the result comes as `images` of node `result`, or, when deep, as its `latents`.

    Args:
        files: names of the uploaded picture, or of its high and its low bytes.
        mask: name of the uploaded mask, white where the picture is lost.
    """
    left_out = {picture, *_of(prompt, PICTURES)} - {result}
    prompt = {name: copy.deepcopy(node) for name, node in prompt.items() if name not in left_out}

    def add(name: str, class_type: str, **inputs: Any) -> list[Any]:
        prompt[f"restore_{name}"] = {"class_type": class_type, "inputs": _defaults(object_info[class_type]) | inputs}
        return [f"restore_{name}", 0]

    parts = [add(f"picture{number}", "LoadImage", image=file) for number, file in enumerate(files)]
    whole = parts[0]
    if len(parts) == 2:
        whole = add("whole", "ImageBlend", image1=parts[0], image2=parts[1], blend_factor=1 / 257, blend_mode="normal")
    sources = {(picture, 0): whole}
    if mask:
        sources[picture, 1] = add("mask", "LoadImageMask", image=mask, channel="red")
    for node in prompt.values():
        for key, link in node["inputs"].items():
            if isinstance(link, list) and len(link) == 2 and tuple(link) in sources:
                node["inputs"][key] = sources[tuple(link)]
    images = prompt[result]["inputs"]["images"]
    prompt[result] = {"class_type": "PreviewImage", "inputs": {"images": images}}  # the server keeps no copy for good
    if deep:
        seen = add("seen", "PosteriorObserve", image=images, operator=add("nothing", "PosteriorIdentity"), sigma_y=0.0)
        latent = add("latent", "PosteriorStartingPoint", measurement=seen, start="back-projection")
        prompt[result] = {"class_type": "SaveLatent", "inputs": {"samples": latent, "filename_prefix": "restore"}}
    return prompt


def said(outputs: dict[str, Any]) -> dict[str, str]:
    """Fit (or, where there is no noise, residual RMS) and method as the reports on the nodes have them."""
    text = "\n".join(str(line) for output in outputs.values() for line in output.get("text", ()))
    number = r"(\d[\d.]*(?:e-?\d+)?)"
    patterns = {
        "fit": rf"\bfit {number}",
        "residual": rf"\bresidual RMS {number}",
        "method": r"\b((?:restoration|samples|mean of [^\n;]*?) by [^\n;]+)",
    }
    found = {name: re.search(pattern, text) for name, pattern in patterns.items()}
    return {name: match[1] if match else "" for name, match in found.items()}


def guided_by(prompt: Prompt, object_info: dict[str, Any]) -> str:
    """The guidance blocks of a workflow: the method where no report names it."""
    kinds = {node["class_type"] for node in prompt.values()}
    blocks = [kind for kind in kinds if "LIKELIHOOD_GUIDANCE" in object_info[kind].get("output", ())]
    return ", ".join(sorted(object_info[kind].get("display_name") or kind for kind in blocks))


def _defaults(definition: dict[str, Any]) -> dict[str, Any]:
    required = definition["input"].get("required", {})
    entries = ((name, options) for name, _, options in inputs_of(definition) if name in required)
    return {name: options["default"] for name, options in entries if "default" in options}


def _of(prompt: Prompt, kinds: tuple[str, ...]) -> list[str]:
    return [name for name, node in prompt.items() if node["class_type"] in kinds]


def _is_result(node: dict[str, Any]) -> bool:
    prefix = str(node["inputs"].get("filename_prefix", "")).rsplit("/", 1)[-1]
    return "repaired" in (prefix.lower(), node.get("_meta", {}).get("title", "").lower())


def _listed(nodes: list[str], prompt: Prompt) -> str:
    return ", ".join(f"{node} ({prompt[node]['class_type']})" if node in prompt else node for node in nodes) or "none"
