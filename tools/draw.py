"""Makes a shared workflow: an API prompt goes through the real frontend, which lays it out as a graph and saves it.

    python tools/package.py posterior.tools.draw PROMPT.json workflows/NAME.json --note NOTE.md --thumbnail NODE

The prompt is the server's own form, with titles in `_meta`. The graph is run once, and the first picture of the node
named by --thumbnail becomes workflows/NAME.jpg. From then on the workflow file is the source: change it in the editor.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from . import environment
from .server import Server
from .workflow import to_prompt

#: columns by the longest way from a source; within a column in the order of the prompt
LAYOUT = """
async ({prompt, note}) => {
    await app.loadApiJson(prompt, "workflow");
    const graph = app.graph, gap = 50, depth = {};
    const links = node => (node.inputs ?? []).map(slot => graph.links.get(slot.link)).filter(Boolean);
    const deep = node => depth[node.id] ??=
        Math.max(0, ...links(node).map(link => 1 + deep(graph.getNodeById(link.origin_id))));
    const far = Math.max(...graph._nodes.map(deep));
    // a source stands just left of what it feeds, not at the far left
    for (const node of graph._nodes) {
        const targets = (node.outputs ?? []).flatMap(slot => slot.links ?? []).map(id => graph.links.get(id).target_id);
        node.column = links(node).length || !targets.length ? depth[node.id]
            : Math.min(...targets.map(id => depth[id])) - 1;
    }
    let x = 0;
    for (let column = 0; column <= far; column++) {
        const nodes = graph._nodes.filter(node => node.column === column);
        let y = 0, width = 0;
        for (const node of nodes) {
            node.setSize([Math.max(270, node.computeSize()[0]), node.computeSize()[1]]);
            if (/Preview|SaveImage/.test(node.type)) node.setSize([340, 380]);
            node.pos = [x, y];
            y += node.size[1] + gap + 30;
            width = Math.max(width, node.size[0]);
        }
        x += width + gap;
    }
    graph._nodes.forEach(node => delete node.column);
    if (note) {
        const card = LiteGraph.createNode("MarkdownNote");
        graph.add(card);
        card.title = "How to use this";
        card.widgets[0].value = note;
        card.pos = [0, -330];
        card.setSize([720, 270]);
    }
    const saved = graph.serialize();
    saved.extra = {...saved.extra, ds: {scale: 0.7, offset: [60, 420]}};
    saved.id = crypto.randomUUID();
    return JSON.parse(JSON.stringify(saved));  // as a file has it: nothing that is undefined
}
"""


def draw(server: Server, prompt: dict, note: str) -> dict:
    """The UI-format workflow of an API prompt."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_function("window.app?.graph && window.app.extensionManager && window.app.vueAppReady")
        workflow = page.evaluate(LAYOUT, {"prompt": prompt, "note": note})
        browser.close()
    return workflow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", type=Path)
    parser.add_argument("workflow", type=Path)
    parser.add_argument("--note", type=Path, help="a Markdown file that is put beside the graph")
    parser.add_argument("--thumbnail", help="the id of the node whose picture is the thumbnail")
    options = parser.parse_args()
    prompt = json.loads(options.prompt.read_text(encoding="utf-8"))
    note = options.note.read_text(encoding="utf-8") if options.note else ""
    with Server(environment.get(None), cpu=True) as server:
        workflow = draw(server, prompt, note)
        options.workflow.write_text(json.dumps(workflow, indent=1) + "\n", encoding="utf-8")
        if options.thumbnail:
            outputs = server.run(to_prompt(workflow, server.object_info()))
            picture = server.images({"thumbnail": outputs[options.thumbnail]})[0]
            image = Image.open(io.BytesIO(picture)).convert("RGB")
            image.thumbnail((512, 512))
            image.save(options.workflow.with_suffix(".jpg"), quality=90)


if __name__ == "__main__":
    main()
