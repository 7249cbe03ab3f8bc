"""The shared workflows: each has its thumbnail, is what the editor saves, and runs on the real server."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_families
import tiny_models
from PIL import Image

from posterior.photos import load_photo
from posterior.photos.damaged import DAMAGED, SIDE
from posterior.tools.server import CLONE, Server
from posterior.tools.workflow import to_prompt

WORKFLOWS = sorted((CLONE / "workflows").glob("*.json"))
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])


def test_there_are_workflows_and_nothing_else():
    expected = {path.with_suffix(suffix) for path in WORKFLOWS for suffix in (".json", ".jpg")}
    assert len(expected) > 2 and set((CLONE / "workflows").iterdir()) == expected


@each_workflow
def test_a_workflow_is_what_the_editor_saves(path: Path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    assert {"nodes", "links", "version", "id"} <= set(workflow)
    assert any(node["type"] == "MarkdownNote" for node in workflow["nodes"])
    with Image.open(path.with_suffix(".jpg")) as thumbnail:
        assert thumbnail.format == "JPEG" and 128 <= max(thumbnail.size) <= 512


def test_comfy_lint_finds_nothing(server: Server):
    """In the prompts, but that the files which they name are not on this server."""
    linter = pytest.importorskip("comfy_lint.linter", reason="comfy-lint is not installed (tools/requirements-dev.txt)")
    from comfy_lint.schema import normalize

    info = server.object_info()
    schema = normalize(info)
    for path in WORKFLOWS:
        prompt = to_prompt(json.loads(path.read_text(encoding="utf-8")), info)
        found = linter.lint_workflow(prompt, schema)
        loaders = (*TINY, "CLIPLoader", "DualCLIPLoader", "LoadImage", "PosteriorReadJPEG")
        wrong = [each for each in found if each.rule != "invalid-enum" or each.class_type not in loaders]
        assert not wrong, (path.stem, [each.message for each in wrong])


def with_tiny_checkpoint(workflow: dict, server: Server, host: Callable[[], object]) -> dict:
    """The prompt of a workflow; one that wants the user's checkpoint finds one with random weights under its name, and
    is asked for little of it: a small picture and few steps."""
    names = {node["type"]: node["widgets_values"][0] for node in workflow["nodes"] if node["type"] in TINY}
    names = {kind: name for kind, name in names.items() if name != "pixel_space"}  # the host's own, no file
    for kind, name in names.items():
        host()
        folder, save = TINY[kind]
        (server.base / "models" / folder).mkdir(parents=True, exist_ok=True)
        save(server.base / "models" / folder / name)
    prompt = to_prompt(workflow, server.object_info())
    for node in prompt.values() if names else ():
        node["inputs"] |= {
            "PosteriorExamplePhoto": {"size": 128}, "PosteriorSolve": {"steps": 4},
            "PosteriorSuperResolution": {"factor": 2},
        }.get(node["class_type"], {})  # fmt: skip
        if node["class_type"] == "CLIPTextEncode" and "UNETLoader" in names:  # text encoders are too large for a test
            family = FAMILIES[names["UNETLoader"]]
            node |= {
                "class_type": "TestRandomConditioning", "inputs": {"width": family.width, "pooled": family.pooled},
            }  # fmt: skip
    return {key: node for key, node in prompt.items() if node["class_type"] not in ("CLIPLoader", "DualCLIPLoader")}


def checkpoint(path: Path) -> None:
    """One file under every name: its text encoder has its true size."""
    one = path.with_name("tiny.safetensors")
    if not one.exists():
        tiny_models.sd15_checkpoint(one)
    if not path.exists():
        path.hardlink_to(one)


#: of the diffusion models that templates name
FAMILIES = {
    name: next(family for family in tiny_families.FAMILIES if family.name == kind)
    for name, kind in {
        "qwen_image_fp8_e4m3fn.safetensors": "QwenImage", "chroma-radiance-x0.safetensors": "ChromaRadiance",
        "flux1-dev.safetensors": "Flux", "z_image_turbo_bf16.safetensors": "ZImage",
    }.items()
}  # fmt: skip
#: and of their VAEs
VAES: dict[str, Callable[[Path], object]] = {
    "qwen_image_vae.safetensors": tiny_families.save_wan_vae,
    "ae.safetensors": lambda path: tiny_models.vae(path, channels=16),
}
#: where a loader finds its files, and what makes a tiny one
TINY: dict[str, tuple[str, Callable[[Path], object]]] = {
    "CheckpointLoaderSimple": ("checkpoints", checkpoint),
    "UNETLoader": ("diffusion_models", lambda path: tiny_families.save(FAMILIES[path.name], path)),
    "VAELoader": ("vae", lambda path: VAES[path.name](path)),
}


def psnr(content: bytes, truth: np.ndarray) -> float:
    picture = Image.open(io.BytesIO(content)).convert("RGB").resize(truth.shape[1::-1], Image.Resampling.BICUBIC)
    return -10 * np.log10(np.mean((np.asarray(picture) / 255 - truth) ** 2))


def check_repair(prompt: dict, outputs: dict, server: Server) -> None:
    """Of a photo that was damaged already, the repaired one is nearer to the truth, which no node has seen."""
    for node in prompt.values():
        if node["class_type"] == "PosteriorDamagedPhoto":
            truth = load_photo(DAMAGED[node["inputs"]["damage"]][1], SIDE)[0].numpy()
            titles = {entry["_meta"]["title"]: identity for identity, entry in prompt.items()}
            if not {"Damaged", "Repaired"} <= titles.keys():  # a graph that shows something else
                continue
            damaged, repaired = (
                psnr(server.images({"": outputs[titles[title]]})[0], truth) for title in ("Damaged", "Repaired")
            )
            print(f"{node['inputs']['damage']}: {damaged:.1f} dB, repaired {repaired:.1f} dB")
            assert repaired > damaged + 1


@each_workflow
def test_a_workflow_runs(path: Path, server: Server, request: pytest.FixtureRequest):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    prompt = with_tiny_checkpoint(workflow, server, lambda: request.getfixturevalue("host"))
    for node in prompt.values():
        if node["class_type"] == "LoadImage":  # the user's own file
            shutil.copy(CLONE / "photos" / "damaged" / "blocks.jpg", server.input / node["inputs"]["image"])
    for node in prompt.values() if path.stem.startswith("study_") else ():
        if node["class_type"] == "PosteriorExamplePhoto":  # the demo runs them in full size
            node["inputs"]["size"] = min(128, node["inputs"]["size"])
    outputs = server.wait(server.submit(prompt, client="test"))  # those of pictures that another graph has shown too
    check_repair(prompt, outputs, server)
    for identity, node in prompt.items():
        if node["class_type"] in ("SaveImage", "PreviewImage"):
            for content in server.images({identity: outputs[identity]}):
                with Image.open(io.BytesIO(content)) as picture:  # NaN would be black
                    assert max(high - low for low, high in picture.convert("RGB").getextrema()) > 10, node["_meta"]
        if node["class_type"] in ("PosteriorMeasurementFit", "PosteriorSolve"):
            (text,) = outputs[identity]["text"]
            for fit in re.findall(r"fit ([\d.]+)", text):
                assert 0.3 <= float(fit) <= 1.3, text
            # a wrong kernel is found out
            assert ("not white" in text) == (path.stem == "wrong_kernel"), text
