"""Every workflow as the real frontend opens it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image

from posterior.tools.server import CLONE, Server
from posterior.tools.workflow import to_prompt

WORKFLOWS = sorted((CLONE / "workflows").glob("*.json"))


def frontend_prompt(page: Any, workflow: dict[str, Any]) -> dict[str, Any]:
    return page.evaluate(OPENED, workflow)["prompt"]


@pytest.fixture(scope="module")
def opened(editor: Any) -> dict[str, dict[str, Any]]:
    """What the frontend makes of every workflow, each opened once."""
    return {path.stem: editor.evaluate(OPENED, json.loads(path.read_text(encoding="utf-8"))) for path in WORKFLOWS}


#: opens a workflow; gives its prompt, the scale at which it opens, and where its nodes and groups then are in the
#: window, titles and all: left, top, right, bottom
OPENED = """
async workflow => {
    await app.loadGraphData(workflow);
    const prompt = (await app.graphToPrompt()).output;
    await new Promise(requestAnimationFrame);  // a frontend that fits the view does so with the next frame
    const {scale, offset} = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect();
    const edges = ([x, y], [width, height], title) => [x, y - title, x + width, y + height]
        .map((value, side) => (value + offset[side % 2]) * scale + (side % 2 ? canvas.y : canvas.x));
    const nodes = app.graph._nodes.map(node => ({type: node.type, edges: edges(node.pos, node.size, 30)}));
    const groups = app.graph._groups.map(group => (
        {title: group.title, height: group.titleHeight * scale, edges: edges(group.pos, group.size, 0)}));
    return {prompt, scale, nodes, groups};
}
"""


def test_our_prompts_are_the_frontends(server: Server, opened: dict[str, dict[str, Any]]):
    object_info = server.object_info()
    for path in WORKFLOWS:
        workflow = json.loads(path.read_text(encoding="utf-8"))
        assert to_prompt(workflow, object_info) == opened[path.stem]["prompt"], path.stem


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
    Image.new("RGB", (8, 8)).save(server.input / "example.png")
    workflow = {"last_node_id": 16, "last_link_id": 9, "nodes": nodes, "links": links, "groups": [], "version": 0.4}
    ours = to_prompt(workflow, server.object_info())
    assert ours == frontend_prompt(page, workflow)
    assert ours["4"]["inputs"] == {"image": ["1", 0], "upscale_method": "area", "scale_by": 1.5}


LOADERS = ("CheckpointLoaderSimple", "UNETLoader", "CLIPLoader", "VAELoader", "CLIPTextEncode")
ARTISTS = [path for path in WORKFLOWS if not path.stem.startswith("study_")]


def test_templates_are_small_and_seen_at_once(opened: dict[str, dict[str, Any]]):
    """In a window of 1600 x 1000: at most nine nodes and a note, all of them in sight, large enough to be read.

    What loads models and encodes prompts is not counted: how many such nodes there are is up to the host.
    """
    for path in ARTISTS:
        workflow = json.loads(path.read_text(encoding="utf-8"))
        kinds = [node["type"] for node in workflow["nodes"]]
        assert len([kind for kind in kinds if kind not in LOADERS]) <= 10, path.stem
        assert "MarkdownNote" in kinds and "PosteriorSimulate" not in kinds, path.stem
        view = opened[path.stem]
        assert view["scale"] > 0.58, path.stem
        for what in (*view["nodes"], *view["groups"]):
            left, top, right, bottom = what["edges"]
            assert left >= 50 and top >= 70 and right <= 1600 and bottom <= 1000, (path.stem, what)


GROUPS = ["1 Your picture", "2 What happened to it", "3 Repair", "4 Result"]


def test_templates_are_in_titled_groups(opened: dict[str, dict[str, Any]]):
    """The same ones everywhere; each node but the note lies in one, under its title and beside the others."""

    def apart(one: list[float], other: list[float]) -> bool:
        return one[0] >= other[2] or one[2] <= other[0] or one[1] >= other[3] or one[3] <= other[1]

    for path in ARTISTS:
        view = opened[path.stem]
        assert [group["title"] for group in view["groups"]] == GROUPS, path.stem
        boxes = [node["edges"] for node in view["nodes"]] + [group["edges"] for group in view["groups"]]
        for node in view["nodes"]:
            left, top, right, bottom = node["edges"]
            holding = [
                group
                for group in view["groups"]
                for x, y, x_end, y_end in [group["edges"]]
                if x <= left and y + group["height"] <= top and x_end >= right and y_end >= bottom
            ]
            assert len(holding) == (node["type"] != "MarkdownNote"), (path.stem, node)
            around = [node["edges"], *(group["edges"] for group in holding)]
            assert all(apart(node["edges"], box) for box in boxes if box not in around), (path.stem, node)
