"""Makes a shared workflow: an API prompt goes through the real frontend, which lays it out as a graph and saves it.

    python tools/package.py posterior.tools.draw PROMPT.json workflows/NAME.json --note NOTE.md --thumbnail NODE [NODE]

The prompt is the server's own form, with titles in `_meta`. The graph is run once, and the picture of the node named by
--thumbnail (a batch as a grid) becomes workflows/NAME.jpg; of two nodes the left half of one and the right half of the
other, as before and after. From then on the workflow file is the source: change it in the editor, lay it out anew by

    python tools/package.py posterior.tools.draw --again workflows/NAME.json [...]
"""

from __future__ import annotations

import argparse
import io
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from . import environment
from .server import Server
from .workflow import to_prompt

#: groups of what belongs together, each in columns by the longest way from a source, within a column in the order of
#: the prompt; of the ways to put groups beside and below each other, one in which the graph is seen large
LAYOUT = r"""
async ({prompt, workflow, note}) => {
    await (workflow ? app.loadGraphData(workflow) : app.loadApiJson(prompt, "workflow"));
    const graph = app.graph, gap = 30, title = 30, head = 44, pad = 20, above = 150;
    [...graph._groups].forEach(group => graph.remove(group));
    let card = graph._nodes.find(node => node.type === "MarkdownNote");
    const nodes = graph._nodes.filter(node => node !== card);
    const sources = node => (node.inputs ?? []).map(slot => graph.links.get(slot.link)).filter(Boolean)
        .map(link => graph.getNodeById(link.origin_id));
    const targets = node => (node.outputs ?? []).flatMap(slot => slot.links ?? [])
        .map(id => graph.getNodeById(graph.links.get(id).target_id));

    // sizes, with room for what nodes say
    const said = {};
    const isPicture = node => /^(Preview|Save)Image|PreviewMeasurement/.test(node.type);
    for (const node of nodes) {
        const preview = /^(KSampler|SamplerCustomAdvanced|PosteriorSolve)$/.test(node.type) ? 230 : 0;  // while it runs
        const [width, height] = node.computeSize();
        node.setSize(isPicture(node) ? [340, 380] : [Math.max(320, width), height + preview]);
        if ((node.outputs ?? []).some(slot => slot.name === "report"))
            said[node.id] = /Solve|Samples|Diagnose$/.test(node.type) ? 150 : 110;
        else if (/Inpainting|Observe|Simulate|UpscaleTo/.test(node.type)) said[node.id] = 60;
        // another Run gives the same picture again
        for (const widget of node.widgets ?? [])
            if (widget.name === "control_after_generate") widget.value = "fixed";
    }

    // what belongs together
    const category = node => node.constructor.nodeData?.category ?? "";
    const gives = (node, ...kinds) => (node.outputs ?? []).some(slot => kinds.includes(slot.type));
    const isDamage = node => /^posterior\/(operators|diagnose)/.test(category(node)) || gives(node, "MEASUREMENT");
    const isGiven = node => !isDamage(node) && gives(node, "IMAGE", "MASK") && sources(node).every(isGiven);
    const stage = node => isPicture(node) ? 3 : isGiven(node) ? 0 : isDamage(node) ? 1 : 2;
    const parts = [
        {name: "1 Your picture", color: "#3f789e"}, {name: "2 What happened to it", color: "#b58b2a"},
        {name: "3 Repair", color: "#88AA88"}, {name: "4 Result", color: "#8A8A8A"},
    ].map((part, at) => ({...part, nodes: nodes.filter(node => stage(node) === at)}));

    // one group in columns, no higher than can be told; neighbours share a column where both have room in it
    const room = node => title + node.size[1] + (said[node.id] ?? 0);
    const height = column => column.reduce((sum, node) => sum + room(node) + gap, -gap);
    const width = column => Math.max(...column.map(node => node.size[0]));
    const columns = (inside, highest) => {
        const depth = {}, own = node => inside.includes(node);
        const deep = node => depth[node.id] ??= Math.max(0, ...sources(node).filter(own).map(each => 1 + deep(each)));
        inside.forEach(deep);
        const fed = node => targets(node).filter(own).map(target => depth[target.id]);
        // a source stands just left of what it feeds, not at the far left
        const at = node => sources(node).some(own) || !fed(node).length ? depth[node.id] : Math.min(...fed(node)) - 1;
        const found = [];
        for (const node of inside) (found[at(node)] ??= []).push(node);
        const joined = (columns, more) => {
            const both = [...(columns.at(-1) ?? []), ...more];
            return height(both) <= highest ? [...columns.slice(0, -1), both] : [...columns, more];
        };
        const low = found.flatMap(column => column.map(node => [node]).reduce(joined, []));
        return low.reduce(joined, []);
    };
    const piles = (pictures, count) => pictures.reduce((found, picture, at) => {
        (found[Math.floor(at / count)] ??= []).push(picture);
        return found;
    }, []);
    const boxed = (part, columns) => ({
        ...part, columns, height: head + Math.max(...columns.map(height)) + pad,
        width: columns.reduce((sum, column) => sum + width(column) + gap, 2 * pad - gap),
    });

    // all groups; places are those of their corners
    const arranged = (highest, stacked, count, below) => {
        const boxes = parts.filter(part => part.nodes.length).map(part =>
            boxed(part, part.name.startsWith("4") ? piles(part.nodes, count) : columns(part.nodes, highest)));
        let x = 0, y = 0, right = 0, bottom = 0;
        for (const [at, box] of boxes.entries()) {
            const under = at === 1 && stacked || at === boxes.length - 1 && below;
            if (at > 0) [x, y] = under ? [at === 1 ? x : 0, bottom + gap] : [right + gap, 0];
            box.place = [x, y];
            [right, bottom] = [Math.max(right, x + box.width), Math.max(bottom, y + box.height)];
        }
        // all of it on a laptop's screen, but no smaller than can be read
        const scale = Math.max(0.58, Math.min(0.8, 1400 / right, 760 / (bottom + above + gap + title)));
        return {boxes, right, bottom, scale};
    };
    const ways = [920, 750, 600].flatMap(highest => [true, false].flatMap(stacked =>
        [1, 2].flatMap(count => [false, true].map(below => arranged(highest, stacked, count, below)))));
    const {boxes, right, scale} = ways.reduce((best, way) => way.scale > 1.1 * best.scale ? way : best);
    for (const {name, color, columns, place: [left, top], width: wide, height: high} of boxes) {
        let x = left + pad;
        for (const column of columns) {
            let y = top + head;
            for (const node of column) {
                node.pos = [x, y + title];
                y += room(node) + gap;
            }
            x += width(column) + gap;
        }
        const group = new LiteGraph.LGraphGroup(name);
        Object.assign(group, {color, pos: [left, top], size: [wide, high]});
        graph.add(group);
    }
    if (note) {
        if (!card) graph.add(card = LiteGraph.createNode("MarkdownNote"));
        card.title = "How to use this";
        card.widgets[0].value = note;
    }
    if (card) {
        card.pos = [0, -above - gap];
        card.setSize([Math.min(right, 1000), above]);
    }
    const saved = graph.serialize();
    saved.extra = {...saved.extra, ds: {scale, offset: [90 / scale, 130 / scale + above + gap + title]}};
    saved.id = workflow?.id ?? crypto.randomUUID();
    return JSON.parse(JSON.stringify(saved));  // as a file has it: nothing that is undefined
}
"""


@contextmanager
def editor(server: Server, **settings: Any) -> Iterator[Page]:
    """A page of a browser (playwright's settings of one) with the server's frontend loaded."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(**settings)
        server.post("/settings/Comfy.TutorialCompleted", True)  # else the templates lie over the graph
        page.goto(server.url)
        page.wait_for_function("window.app?.graph && window.app.extensionManager && window.app.vueAppReady")
        yield page
        browser.close()


def draw(server: Server, drawings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """UI-format workflows, each of an API prompt (`prompt`, `note`) or laid out anew (`workflow`)."""
    with editor(server) as page:
        return [page.evaluate(LAYOUT, drawing) for drawing in drawings]


def written(workflow: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(workflow, indent=1) + "\n", encoding="utf-8")


def grid(contents: list[bytes]) -> Image.Image:
    """The pictures of a batch in rows, as many as columns."""
    pictures = [Image.open(io.BytesIO(content)).convert("RGB") for content in contents]
    columns, (width, height) = math.ceil(math.sqrt(len(pictures))), pictures[0].size
    sheet = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    return sheet


def thumbnail(pictures: list[Image.Image]) -> Image.Image:
    """One picture, or the left half of the first and the right half of the last with a white line between them.

    A last one that has a scale below it goes without; what was made wider stands below what it was.
    """
    picture = pictures[-1].copy()
    if len(pictures) > 1 and pictures[0].height == picture.height and pictures[0].width < picture.width:
        sheet = Image.new("RGB", (picture.width, 2 * picture.height + 4), "white")
        sheet.paste("black", (0, 0, *picture.size))
        sheet.paste(pictures[0], ((picture.width - pictures[0].width) // 2, 0))
        sheet.paste(picture, (0, picture.height + 4))
        picture = sheet
    elif len(pictures) > 1:
        width, height = picture.width, picture.width * pictures[0].height // pictures[0].width
        picture = picture.crop((0, 0, width, min(height, picture.height)))
        before = pictures[0].resize(picture.size, Image.Resampling.NEAREST)
        picture.paste(before.crop((0, 0, width // 2, picture.height)), (0, 0))
        picture.paste("white", (width // 2, 0, width // 2 + max(1, width // 128), picture.height))
    if picture.width < 384:  # a card of the template browser is larger
        picture = picture.resize((384, round(384 / picture.width * picture.height)), Image.Resampling.BICUBIC)
    picture.thumbnail((512, 512))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="a prompt and the workflow to make of it")
    parser.add_argument("--again", action="store_true", help="the files are workflows, to be laid out anew")
    parser.add_argument("--note", type=Path, help="a Markdown file that is put beside the graph")
    parser.add_argument("--thumbnail", nargs="+", help="ids of the nodes whose pictures make the thumbnail, one or two")
    options = parser.parse_args()
    read = [json.loads(path.read_text(encoding="utf-8")) for path in options.files[: None if options.again else 1]]
    with Server(environment.get(None), cpu=True) as server:
        note = options.note.read_text(encoding="utf-8") if options.note else ""
        made = draw(server, [{"workflow": each} if options.again else {"prompt": each, "note": note} for each in read])
        for path, workflow in zip(options.files[0 if options.again else 1 :], made, strict=True):
            written(workflow, path)
            if options.thumbnail:
                outputs = server.run(to_prompt(workflow, server.object_info()))
                pictures = [grid(server.images({identity: outputs[identity]})) for identity in options.thumbnail]
                thumbnail(pictures).save(path.with_suffix(".jpg"), quality=90)


if __name__ == "__main__":
    main()
