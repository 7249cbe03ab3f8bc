"""Makes a shared workflow: an API prompt goes through the real frontend, which lays it out as a graph and saves it.

    python tools/package.py posterior.tools.draw PROMPT.json workflows/NAME.json --note NOTE.md --thumbnail NODE [NODE]

The prompt is the server's own form, with titles in `_meta`. The graph is run once, and the picture of the node named by
--thumbnail (a batch as a grid) becomes workflows/NAME.jpg; of two nodes the left half of one and the right half of the
other, as before and after. From then on the workflow file is the source: change it in the editor.
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

#: columns by the longest way from a source, within a column in the order of the prompt; neighbours share one where that
#: is no higher than a pair of pictures; these stand at the right, abreast or in pairs, or below where the graph is so
#: wide that its words could not be read otherwise
LAYOUT = """
async ({prompt, note}) => {
    await app.loadApiJson(prompt, "workflow");
    const graph = app.graph, gap = 50, title = 30, depth = {}, said = {};  // room for reports
    const isPicture = node => /^(Preview|Save)Image|PreviewMeasurement/.test(node.type);
    const links = node => (node.inputs ?? []).map(slot => graph.links.get(slot.link)).filter(Boolean);
    const targets = node => (node.outputs ?? []).flatMap(slot => slot.links ?? [])
        .map(id => graph.getNodeById(graph.links.get(id).target_id));
    const deep = node => depth[node.id] ??=
        Math.max(0, ...links(node).map(link => 1 + deep(graph.getNodeById(link.origin_id))));
    graph._nodes.forEach(deep);
    // a source stands just left of what it feeds, not at the far left
    const column = node => links(node).length || !targets(node).length ? depth[node.id]
        : Math.min(...targets(node).map(target => depth[target.id])) - 1;
    const columns = [];
    for (const node of graph._nodes) {
        const preview = /^(KSampler|SamplerCustomAdvanced|PosteriorSolve)$/.test(node.type) ? 230 : 0;  // while it runs
        const [width, height] = node.computeSize();
        node.setSize(isPicture(node) ? [340, 380] : [Math.max(320, width), height + preview]);
        if (/Inpainting|Estimate|TrueSize|Simulate|AutoGuidance|MeasurementFit/.test(node.type)) said[node.id] = 70;
        // another Run gives the same picture again
        for (const widget of node.widgets ?? [])
            if (widget.name === "control_after_generate") widget.value = "fixed";
        if (!isPicture(node)) (columns[column(node)] ??= []).push(node);
    }
    let x = 0, bottom = 0;
    const room = node => node.size[1] + (said[node.id] ?? 0) + gap + title;
    const stack = nodes => {
        let y = 0;
        for (const node of nodes) {
            node.pos = [x, y];
            y += room(node);
        }
        x += Math.max(...nodes.map(node => node.size[0])) + gap;
        bottom = Math.max(bottom, y);
    };
    const height = nodes => nodes.reduce((sum, node) => sum + room(node), 0);
    for (const [at, nodes] of columns.entries())
        if (height([...(columns[at - 1] ?? []), ...nodes]) <= 920) columns[at] = [...(columns[at - 1] ?? []), ...nodes];
    columns.filter((nodes, at) => columns[at + 1]?.[0] !== nodes[0]).forEach(stack);
    const pictures = graph._nodes.filter(isPicture);
    const abreast = x + 390 * pictures.length < 1800 ? 1 : 2;
    if (x + 390 * pictures.length / abreast < 2450)
        while (pictures.length) stack(pictures.splice(0, abreast));
    else {
        pictures.forEach((node, index) => node.pos = [390 * index, bottom]);
        bottom += 380 + gap + title;
    }
    const above = 150;
    if (note) {
        const card = LiteGraph.createNode("MarkdownNote");
        graph.add(card);
        card.title = "How to use this";
        card.widgets[0].value = note;
        card.pos = [0, -above - gap - title];
        card.setSize([Math.min(x - gap, 1000), above]);
    }
    const saved = graph.serialize();
    // all of it on a laptop's screen, but no smaller than can be read
    const scale = Math.max(0.58, Math.min(0.8, 1400 / x, 760 / (bottom + above + gap + 2 * title)));
    saved.extra = {...saved.extra, ds: {scale, offset: [90 / scale, 130 / scale + above + gap + title]}};
    saved.id = crypto.randomUUID();
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


def draw(server: Server, prompt: dict, note: str) -> dict:
    """The UI-format workflow of an API prompt."""
    with editor(server) as page:
        return page.evaluate(LAYOUT, {"prompt": prompt, "note": note})


def grid(contents: list[bytes]) -> Image.Image:
    """The pictures of a batch in rows, as many as columns."""
    pictures = [Image.open(io.BytesIO(content)).convert("RGB") for content in contents]
    columns, (width, height) = math.ceil(math.sqrt(len(pictures))), pictures[0].size
    sheet = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    return sheet


def thumbnail(pictures: list[Image.Image]) -> Image.Image:
    """One picture, or the left half of the first and the right half of the last with a white line between them."""
    picture = pictures[-1].copy()
    if len(pictures) > 1:
        middle, height = picture.width // 2, picture.height
        before = pictures[0].resize(picture.size, Image.Resampling.NEAREST)
        picture.paste(before.crop((0, 0, middle, height)), (0, 0))
        picture.paste("white", (middle, 0, middle + max(1, picture.width // 128), height))
    if picture.width < 256:  # a card of the template browser is larger
        picture = picture.resize([side * (384 // picture.width) for side in picture.size], Image.Resampling.BICUBIC)
    picture.thumbnail((512, 512))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", type=Path)
    parser.add_argument("workflow", type=Path)
    parser.add_argument("--note", type=Path, help="a Markdown file that is put beside the graph")
    parser.add_argument("--thumbnail", nargs="+", help="ids of the nodes whose pictures make the thumbnail, one or two")
    options = parser.parse_args()
    prompt = json.loads(options.prompt.read_text(encoding="utf-8"))
    note = options.note.read_text(encoding="utf-8") if options.note else ""
    with Server(environment.get(None), cpu=True) as server:
        workflow = draw(server, prompt, note)
        options.workflow.write_text(json.dumps(workflow, indent=1) + "\n", encoding="utf-8")
        if options.thumbnail:
            outputs = server.run(to_prompt(workflow, server.object_info()))
            pictures = [grid(server.images({identity: outputs[identity]})) for identity in options.thumbnail]
            thumbnail(pictures).save(options.workflow.with_suffix(".jpg"), quality=90)


if __name__ == "__main__":
    main()
