"""The real frontend in a real browser, against the real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posterior.tools.server import CLONE, Server
from posterior.tools.workflow import to_prompt

WORKFLOWS = sorted((CLONE / "workflows").glob("*.json"))


def frontend_prompt(page: Any, workflow: dict[str, Any]) -> dict[str, Any]:
    code = "async workflow => { await app.loadGraphData(workflow); return (await app.graphToPrompt()).output }"
    return page.evaluate(code, workflow)


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])
def test_our_prompt_is_the_frontends(path: Path, server: Server, page: Any):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    assert to_prompt(workflow, server.object_info()) == frontend_prompt(page, workflow)


def node(identity: int, kind: str, values: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    shape = {"pos": [0, 0], "size": [200, 100], "flags": {}, "order": 0, "mode": 0, "properties": {}}
    slots = {"inputs": [], "outputs": []}
    return {"id": identity, "type": kind, **shape, **slots, "widgets_values": values or [], **more}


def socket(name: str, kind: str, link: int | None, widget: bool = False) -> dict[str, Any]:
    return {"name": name, "type": kind, "link": link, **({"widget": {"name": name}} if widget else {})}


def out(kind: str, *links: int) -> dict[str, Any]:
    return {"name": kind, "type": kind, "links": list(links)}


def test_reroutes_primitives_muted_and_bypassed_nodes(server: Server, page: Any):
    nodes = [
        node(1, "LoadImage", ["example.png", "image"], outputs=[out("IMAGE", 1, 9), out("MASK", 2)]),
        node(2, "Reroute", inputs=[socket("", "*", 1)], outputs=[out("IMAGE", 3)]),
        node(3, "ImageInvert", mode=4, inputs=[socket("image", "IMAGE", 3)], outputs=[out("IMAGE", 4)]),
        node(
            4, "ImageScaleBy", ["area", 2.0], inputs=[socket("image", "IMAGE", 4), socket("scale_by", "FLOAT", 5, True)]
        ),
        node(5, "PrimitiveNode", [1.5, "fixed"], outputs=[{**out("FLOAT", 5), "widget": {"name": "scale_by"}}]),
        node(6, "Note", ["a note"]),
        node(7, "MarkdownNote", ["# a note"]),
        node(8, "ImageInvert", mode=2, inputs=[socket("image", "IMAGE", 9)], outputs=[out("IMAGE", 6)]),
        node(9, "PreviewImage", inputs=[socket("images", "IMAGE", 6)], title="Mine"),
        node(10, "MaskToImage", mode=4, inputs=[socket("mask", "MASK", 2)], outputs=[out("IMAGE", 7)]),
        node(11, "PreviewImage", inputs=[socket("images", "IMAGE", 7)]),
        node(12, "KSampler", [7, "randomize", 9, 3.5, "ddim", "karras", 0.5], inputs=[socket("model", "MODEL", None)]),
        node(13, "RandomNoise", [3]),
        node(14, "SolidMask", [0.25], inputs=[socket("height", "INT", 8, True)]),
        node(15, "PrimitiveInt", [96, "increment"], outputs=[out("INT", 8)]),
        node(16, "StringConcatenate", ["a", "b", ""]),
    ]
    links = [[1, 1, 0, 2, 0, "IMAGE"], [2, 1, 1, 10, 0, "MASK"], [3, 2, 0, 3, 0, "IMAGE"], [4, 3, 0, 4, 0, "IMAGE"]]
    links += [[5, 5, 0, 4, 1, "FLOAT"], [6, 8, 0, 9, 0, "IMAGE"], [7, 10, 0, 11, 0, "IMAGE"], [8, 15, 0, 14, 0, "INT"]]
    links += [[9, 1, 0, 8, 0, "IMAGE"]]
    workflow = {"last_node_id": 16, "last_link_id": 9, "nodes": nodes, "links": links, "groups": [], "version": 0.4}
    ours = to_prompt(workflow, server.object_info())
    assert ours == frontend_prompt(page, workflow)
    assert ours["4"]["inputs"] == {"image": ["1", 0], "upscale_method": "area", "scale_by": 1.5}
