"""The shared workflows: each has its thumbnail, is what the editor saves, and runs on the real server."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

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


@each_workflow
def test_a_workflow_runs(path: Path, server: Server):
    prompt = to_prompt(json.loads(path.read_text(encoding="utf-8")), server.object_info())
    outputs = server.run(prompt)
    for identity, node in prompt.items():
        if node["class_type"] in ("SaveImage", "PreviewImage"):
            for content in server.images({identity: outputs[identity]}):
                with Image.open(io.BytesIO(content)) as picture:  # NaN would be black
                    assert max(high - low for low, high in picture.convert("RGB").getextrema()) > 10, node["_meta"]
        if node["class_type"] == "PosteriorMeasurementFit":
            (text,) = outputs[identity]["text"]
            for fit in re.findall(r"fit ([\d.]+)", text):
                assert 0.5 <= float(fit) <= 1.3, text
