"""The real frontend in a real browser, against the real server."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from posterior.tools.server import CLONE, Server
from posterior.tools.workflow import to_prompt

#: what the frontend complains about on any host: its own cloud, out of reach here, files that no user has yet, and
#: help pages in the user's language, which it asks for first
FRONTENDS_OWN = ("api.comfy.org", "huggingface.co/Comfy-Org/", "/userdata", "/user.css", "/favicon", "/en.md")


def errors_of(page: Any) -> list[str]:
    """Console errors and uncaught exceptions of a page from here on."""
    seen: list[str] = []

    def note(text: str) -> None:
        if not any(part in text for part in FRONTENDS_OWN):
            seen.append(text)

    page.on("console", lambda message: message.type == "error" and note(f"{message.text} {message.location['url']}"))
    page.on("pageerror", lambda error: note(str(error)))
    return seen


@pytest.fixture
def errors(page: Any) -> list[str]:
    """Those of the session's page, from the start of the test on."""
    return errors_of(page)


def open_template(page: Any, name: str) -> Any:
    """Opens one of our templates as a user does: Templates, the pack's name, the card. Gives the dialog."""
    page.get_by_role("button", name="Templates").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("posterior", exact=True).click()
    card = dialog.get_by_test_id(f"template-workflow-{name}")
    dialog.locator("[data-testid^=template-workflow-]").first.hover()
    for _ in range(60):  # newer frontends bring the cards below the first rows as one scrolls
        if card.count():
            break
        page.mouse.wheel(0, 1000)
        page.wait_for_timeout(500)
    card.scroll_into_view_if_needed()  # its picture is loaded once it is seen
    page.wait_for_function("image => image.naturalWidth > 0", arg=card.locator("img").first.element_handle())
    card.click()
    page.wait_for_function("app.graph._nodes.some(node => node.type === 'SaveImage')")
    return dialog


def test_a_workflow_runs_from_the_template_browser(server: Server, page: Any, errors: list[str]):
    dialog = open_template(page, "deblur_photo")
    dialog.wait_for(state="hidden")  # the templates close, and no dialog of missing nodes or models takes their place
    unknown = "app.graph._nodes.filter(node => !(node.type in LiteGraph.registered_node_types)).map(node => node.type)"
    assert page.evaluate(unknown) == []

    page.evaluate(
        """() => {
            window.seen = [];
            const note = () => seen.push(...app.graph._nodes.map(node => node.progress).filter(Number.isFinite));
            setInterval(note, 20);
        }"""
    )
    queue = page.get_by_test_id("queue-button")  # a button itself in newer frontends
    queue.locator("xpath=descendant-or-self::button").first.click()
    pictures = "app.graph._nodes.filter(node => node.type === 'SaveImage').map(node => node.imgs?.[0])"
    arrived = f"{pictures}.every(image => image?.complete && image.naturalWidth)"
    page.wait_for_function(arrived, timeout=300_000)
    assert any(0 < progress < 1 for progress in page.evaluate("seen")), "no node showed how far it is"
    dialog.wait_for(state="hidden")

    repaired = page.evaluate("app.graph._nodes.find(node => node.title === 'Repaired').id")
    (prompt,) = server.get("/history?max_items=1").values()
    (file,) = server.images({"": prompt["outputs"][str(repaired)]})
    truth = Image.open(io.BytesIO(file)).convert("RGBA")
    assert bytes(page.evaluate(PIXELS, repaired)) == truth.tobytes()

    said = page.evaluate(REPORTS)
    assert any(text.startswith("fit ") and "restoration by" in text for text in said), said
    forget = "name => app.graph._nodes.forEach(n => n.widgets = n.widgets?.filter(one => one.name !== name))"
    page.evaluate(forget, REPORT)
    assert page.evaluate(REPORTS) == []
    queue.locator("xpath=descendant-or-self::button").first.click()  # all of it is cached
    page.wait_for_function(f"({REPORTS})().some(text => text.startsWith('fit '))")
    stored, asked = page.evaluate("async () => [app.graph.serialize(), (await app.graphToPrompt()).output]")
    assert "restoration by" not in json.dumps([stored, asked]), "a report is stored"

    clip = page.evaluate(SHOW, repaired)
    colours = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB").getcolors(2**24)
    assert len(colours) > 3000, "the canvas does not show the picture"  # without one there are some hundred
    assert errors == []


REPORT = "posterior_report"
#: what the nodes say, as far as it can be seen
REPORTS = """
() => app.graph._nodes.flatMap(node => node.widgets ?? []).filter(widget => widget.name === "posterior_report")
    .filter(widget => widget.element.offsetHeight > 10).map(widget => widget.element.innerText)
"""
#: the pixels of a node's picture, R G B A
PIXELS = """
identity => {
    const [image] = app.graph.getNodeById(identity).imgs;
    const context = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext("2d");
    context.drawImage(image, 0, 0);
    return [...context.getImageData(0, 0, image.naturalWidth, image.naturalHeight).data];
}
"""
#: moves a node to the middle of the canvas, in its own size; gives where it is on the page
SHOW = """
identity => {
    const node = app.graph.getNodeById(identity), {ds} = app.canvas, [x, y] = [500, 300];
    app.canvas.deselectAll();
    [ds.scale, ds.offset] = [1, [x - node.pos[0], y - node.pos[1]]];
    app.canvas.draw(true, true);
    const canvas = app.canvas.canvas.getBoundingClientRect();
    return {x: canvas.x + x, y: canvas.y + y, width: node.size[0], height: node.size[1]};
}
"""


def test_a_picture_brings_its_graph_back_and_a_run_is_stopped(server: Server, page: Any, errors: list[str]):
    """A PNG made by a workflow is dropped on the canvas, a widget changed; the run is stopped when it shows itself."""
    workflow = json.loads((CLONE / "workflows" / "deblur_photo.json").read_text(encoding="utf-8"))
    (solve,) = (node for node in workflow["nodes"] if node["type"] == "PosteriorSolve")
    solve["widgets_values"][1] = 1  # step
    prompt = to_prompt(workflow, server.object_info())
    outputs = server.wait(server.submit(prompt, workflow))
    (saved,) = (key for key, node in prompt.items() if node["_meta"]["title"] == "Repaired")
    page.evaluate(DROP, list(server.images({"": outputs[saved]})[0]))
    page.wait_for_function("app.graph._nodes.some(node => node.type === 'PosteriorSolve')")
    asked = "async () => (await app.graphToPrompt()).output"
    assert page.evaluate(asked) == prompt

    steps = "identity => app.graph.getNodeById(identity).widgets.find(widget => widget.name === 'steps')"
    dialog = page.locator(".graphdialog input")
    for _ in range(20):  # until the frontend has done with moving the new graph about
        if dialog.is_visible():
            break
        node, down = page.evaluate(SHOW, solve["id"]), page.evaluate(f"{steps}.last_y", solve["id"])
        page.mouse.click(node["x"] + node["width"] / 2, node["y"] + down + 10)
        page.wait_for_timeout(1000)
    dialog.fill("300")
    dialog.press("Enter")
    prompt[str(solve["id"])]["inputs"]["steps"] = 300
    assert page.evaluate(asked) == prompt

    page.keyboard.press("Control+Enter")
    page.wait_for_function(UNDER_WAY, arg=solve["id"], timeout=120_000)
    page.keyboard.press("Control+Alt+Enter")
    page.wait_for_function("identity => !(app.graph.getNodeById(identity).progress > 0)", arg=solve["id"])
    while server.running():
        page.wait_for_timeout(100)
    (last,) = server.get("/history?max_items=1").values()
    assert "execution_interrupted" in [event for event, _ in last["status"]["messages"]]
    assert errors == []


#: drops a PNG on the canvas
DROP = """
bytes => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([new Uint8Array(bytes)], "repaired.png", {type: "image/png"}));
    app.canvas.canvas.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
}
"""
#: whether a node says how far it is, and shows what it has so far
UNDER_WAY = """
identity => {
    const node = app.graph.getNodeById(identity), previews = Object.values(app.nodePreviewImages ?? {}).flat();
    return 0 < node.progress && node.progress < 1 && previews.some(url => url.startsWith("blob:"));
}
"""


def test_the_help_panel_shows_our_page(open_page: Callable[..., Any]):
    page = open_page()
    errors = errors_of(page)
    page.evaluate(
        """() => {
            const node = LiteGraph.createNode("PosteriorPhotoPrior");
            app.graph.add(node);
            window.select = () => {
                app.canvas.deselectAll();
                app.canvas.selectNode(node);
                app.canvas.centerOnNode(node);
            };
        }"""
    )
    info = page.get_by_test_id("info-button")
    # a frontend that is still arranging its example takes the selection back
    page.wait_for_function("() => document.querySelector('[data-testid=info-button]') || select()", polling=1000)
    info.click()
    page.get_by_text("It knows texture and edges, not objects").wait_for()
    picture = page.locator("img[src$='/docs/images/PosteriorPhotoPrior.jpg']")
    page.wait_for_function("image => image.naturalWidth > 0", arg=picture.element_handle())
    assert errors == []


#: what artists type, and a node that must be among what the search of nodes finds, in every frontend
WORDS = {
    "scratch": "PosteriorInpainting", "remove text": "PosteriorInpainting", "repair": "PosteriorSolve",
    "deblur": "PosteriorGaussianBlur", "sharpen": "PosteriorGaussianBlur", "remove noise": "PosteriorIdentity",
    "upscale": "PosteriorSuperResolution", "colorize": "PosteriorGrayscale",
    "jpeg artifacts": "PosteriorJPEG", "old photo": "PosteriorDamagedPhoto", "damaged": "PosteriorObserve",
}  # fmt: skip


def test_words_of_artists_find_our_nodes(page: Any):
    missing = {}
    for words, wanted in WORDS.items():
        found = page.evaluate(SEARCH, words)
        if wanted not in found:
            missing[words] = found[:5]
    assert missing == {}


#: names of the nodes that the search box of the frontend finds
SEARCH = """
words => {
    const stores = document.querySelector("#vue-app").__vue_app__.config.globalProperties.$pinia._s;
    return stores.get("nodeDef").nodeSearchService.searchNode(words, []).map(node => node.name);
}
"""


def test_a_new_solve_keeps_its_seed(page: Any):
    values = page.evaluate("LiteGraph.createNode('PosteriorSolve').widgets.map(widget => [widget.name, widget.value])")
    assert ["control_after_generate", "fixed"] in values


def test_nodes_speak_the_language_of_the_browser(open_page: Callable[..., Any]):
    """Still after the frontend has loaded its own words in it."""
    page = open_page(locale="fr-FR")
    translate = "document.querySelector('#vue-app').__vue_app__.config.globalProperties.$t"
    page.wait_for_function(f"{translate}('g.cancel') === 'Annuler'")
    assert page.evaluate(SPOKEN, "PosteriorInpainting") == [
        "Inpainting (enlever texte, rayures)", "masque", "bords doux", "seuil", "agrandir", "op\u00e9rateur",
    ]  # fmt: skip


#: what stands on a node: its title, inputs and outputs
SPOKEN = """
kind => {
    const node = LiteGraph.createNode(kind);
    return [node.title, ...[...node.inputs, ...node.outputs].map(slot => slot.label ?? slot.localized_name)];
}
"""
