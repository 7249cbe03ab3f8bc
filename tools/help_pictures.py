"""Makes the example picture of each help page, web/docs/images/NODE.jpg, and puts it into the page.

    python tools/package.py posterior.tools.help_pictures             # where a page has none yet
    python tools/package.py posterior.tools.help_pictures NODE ...    # those of some nodes again
    python tools/package.py posterior.tools.help_pictures graph       # README's: a template that has run

An operator shows what it does to a photo, with its own defaults: before and after. Any other node is drawn in the
smallest template that uses it, beside what that template gives. One that no template uses stands by itself; if it is a
method, beside what it makes of a digit whose lower half is hidden.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from ..operators.kernels import camera_shake, disk
from . import environment
from .draw import editor, grid
from .server import CLONE, PromptError, Server
from .workflow import defaults, inputs_of

PAGES = CLONE / "web" / "docs"
PICTURES = PAGES / "images"
#: of a photo, and what a node may take, pixels
SIDE, WIDTH, HEIGHT = 160, 340, 320
CANVAS = (34, 34, 34)  # what the editor's looks like
VIEW = {"width": 1600, "height": 1400}
OPERATORS = "posterior/operators"
#: whose photo has other sides; whose measurement is the middle of it; where noise is the damage, and its sigma_y
SIDES = {"PosteriorUpscaleTo": 512, "PosteriorSinglePixelCamera": 256}
MIDDLE, NOISE = {"PosteriorOutpainting"}, {"PosteriorIdentity": 0.1}
#: what the inputs of operators are connected to
SOURCES = {
    "mask": ["photo", 1], "kernel": ["kernel", 0], "kernels": ["kernels", 0], "image": ["colours", 0],
    "first": ["PosteriorGaussianBlur", 0], "second": ["PosteriorJPEG", 0],
}  # fmt: skip


# What an operator does


def before_and_after(server: Server, info: dict[str, Any], key: str) -> Image.Image:
    side = SIDES.get(key, SIDE)
    nodes = {"photo": ("PosteriorExamplePhoto", {"size": side})}
    nodes |= {name: ("LoadImage", {"image": f"{name}.png"}) for name in ("kernel", "kernels", "colours")}
    nodes |= {kind: (kind, {}) for kind in ("PosteriorGaussianBlur", "PosteriorJPEG", key)}
    values = defaults(info[key])
    linked = {name: SOURCES[name] for name, *_ in inputs_of(info[key]) if name in SOURCES and name not in values}
    nodes[key] = (key, linked)
    seen = {"image": ["photo", 0], "operator": [key, 0], "sigma_y": NOISE.get(key, 0.0)}
    nodes["seen"] = ("PosteriorSimulate", seen)
    nodes["after"] = ("PosteriorPreviewMeasurement", {"measurement": ["seen", 0]})
    nodes["before"] = ("PreviewImage", {"images": ["photo", 0]})
    prompt = {
        name: {"class_type": kind, "inputs": {**defaults(info[kind]), **more}} for name, (kind, more) in nodes.items()
    }
    outputs = server.wait(server.submit(prompt, client="pictures"))
    before, after = (
        Image.open(io.BytesIO(server.images({"": outputs[name]})[0])).convert("RGB") for name in ("before", "after")
    )
    shown = after if key in MIDDLE else after.resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return beside([before.resize((SIDE, SIDE), Image.Resampling.LANCZOS), shown], SIDE)


def upload_inputs(server: Server) -> None:
    """A trembling hand's kernel, nine kernels of a lens that blurs its corners, a picture of few pixels and colours."""
    server.upload(encoded([camera_shake(4.0)]), "kernel.png")
    lens = [disk(0.5 + 2.5 * math.hypot(x, y)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    widest = max(kernel.shape[-1] for kernel in lens)
    server.upload(encoded([pad(kernel, [(widest - kernel.shape[-1]) // 2] * 4) for kernel in lens]), "kernels.png")
    with Image.open(CLONE / "photos" / "chelsea.jpg") as photo:
        few = photo.resize((64, 64)).quantize(8).convert("RGB")
    file = io.BytesIO()
    few.save(file, "PNG")
    server.upload(file.getvalue(), "colours.png")


def upload_digit(server: Server) -> None:
    """One of the embedded digits, and a mask that hides its lower half."""
    with Image.open(CLONE / "photos" / "digits.png") as digits:
        digit = digits.convert("RGB").crop((96, 32, 128, 64))
    hidden = Image.new("RGB", digit.size)
    hidden.paste("white", (0, digit.height // 2, *digit.size))
    for name, picture in (("digit", digit), ("hidden", hidden)):
        file = io.BytesIO()
        picture.save(file, "PNG")
        server.upload(file.getvalue(), f"{name}.png")


def encoded(kernels: list[Tensor]) -> bytes:
    """A PNG of one frame or more, the brightest pixel white."""
    file = io.BytesIO()
    first, *more = (
        Image.fromarray((255 * each / each.max()).round().byte().reshape(each.shape[-2:]).numpy()).convert("RGB")
        for each in kernels
    )
    first.save(file, "PNG", save_all=bool(more), append_images=more)
    return file.getvalue()


# What a method gives


def answers(server: Server, info: dict[str, Any], key: str) -> Image.Image | None:
    """A digit whose lower half is hidden, with a little noise, and four answers; none where the method refuses that."""
    kind, takes = info[key]["output"][0], {name for name, *_ in inputs_of(info[key])}
    if kind not in ("LIKELIHOOD_GUIDANCE", "SAMPLER") or "unknown" in takes:  # what a blind one looks for is not here
        return None
    nodes = {
        "digit": ("LoadImage", {"image": "digit.png"}),
        "hidden": ("LoadImageMask", {"image": "hidden.png", "channel": "red"}),
        "operator": ("PosteriorInpainting", {"mask": ["hidden", 0]}),
        "seen": ("PosteriorSimulate", {"image": ["digit", 0], "operator": ["operator", 0], "sigma_y": 0.05}),
        "before": ("PosteriorPreviewMeasurement", {"measurement": ["seen", 0]}),
        "prior": ("PosteriorDigitsPrior", {}),
        "none": ("PosteriorUnconditional", {}),
        "block": ("PosteriorDDNM", {"measurement": ["seen", 0]}),
        "method": (key, {"measurement": ["seen", 0]} if "measurement" in takes else {"guidance": ["block", 0]}),
        "walk": ("PosteriorGuidedDDIM", {"guidance": ["method", 0]}),
        "start": ("PosteriorStartingPoint", {"measurement": ["seen", 0], "start": "noise", "batch_size": 4}),
        "sigmas": ("BasicScheduler", {"model": ["prior", 0], "scheduler": "karras", "steps": 30}),
        "samples": ("SamplerCustom", {
            "model": ["prior", 0], "positive": ["none", 0], "negative": ["none", 0], "cfg": 1.0,
            "sampler": ["method" if kind == "SAMPLER" else "walk", 0], "sigmas": ["sigmas", 0],
            "latent_image": ["start", 0],
        }),
        "vae": ("VAELoader", {"vae_name": "pixel_space"}),
        "decoded": ("VAEDecode", {"samples": ["samples", 0], "vae": ["vae", 0]}),
        "after": ("PreviewImage", {"images": ["decoded", 0]}),
    }  # fmt: skip
    prompt = {
        name: {"class_type": kind, "inputs": {**defaults(info[kind]), **more}} for name, (kind, more) in nodes.items()
    }
    try:
        outputs = server.wait(server.submit(prompt, client="pictures"))
    except PromptError as error:
        print(f"{key}: {error}", flush=True)
        return None
    before, after = (grid(server.images({"": outputs[name]})) for name in ("before", "after"))
    return beside([each.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for each in (before, after)], SIDE)


# A node as it is drawn


#: shows a node of a workflow, or one by itself, in the middle of the window; gives what to cut out
SHOW = """
async ({kind, workflow}) => {
    if (workflow) await app.loadGraphData(workflow);
    else {
        app.graph.clear();
        const made = LiteGraph.createNode(kind);
        app.graph.add(made);
        const [width, height] = made.computeSize();
        for (const widget of made.widgets ?? []) widget.value ??= "your file";
        made.setSize([Math.max(320, width), height]);
    }
    const node = app.graph._nodes.find(node => node.type === kind), {ds} = app.canvas;
    const rim = workflow ? 70 : 20, [width, height] = node.size;
    const [x, y] = [400, 200];
    [ds.scale, ds.offset] = [1, [x - node.pos[0], y - node.pos[1]]];
    app.canvas.deselectAll();
    app.canvas.draw(true, true);
    await new Promise(done => setTimeout(done, 300));  // widgets that are HTML follow with the next frame
    const canvas = app.canvas.canvas.getBoundingClientRect();
    return {x: canvas.x + x - rim, y: canvas.y + y - 30 - 20, width: width + 2 * rim, height: height + 30 + 2 * 20};
}
"""


def drawn(page: Any, kind: str, workflow: Path | None) -> Image.Image:
    graph = json.loads(workflow.read_text(encoding="utf-8")) if workflow else None
    clip = page.evaluate(SHOW, {"kind": kind, "workflow": graph})
    node = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    node.thumbnail((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    if not workflow:
        return node
    with Image.open(workflow.with_suffix(".jpg")) as result:
        result = result.convert("RGB")
        result.thumbnail((WIDTH, 200), Image.Resampling.LANCZOS)
        return beside([node, result], max(node.height, result.height))


#: moves the groups of the graph into the window; gives what to cut out
AROUND = """
async () => {
    const {ds} = app.canvas, scale = 0.8, groups = app.graph._groups;
    const edge = (of, side) => of(...groups.map(({pos, size}) => side(pos, size)));
    const [x, y] = [0, 1].map(axis => edge(Math.min, pos => pos[axis]));
    const [width, height] = [0, 1].map(axis => edge(Math.max, (pos, size) => pos[axis] + size[axis]) - [x, y][axis]);
    [ds.scale, ds.offset] = [scale, [100 / scale - x, 200 / scale - y]];
    app.canvas.deselectAll();
    app.canvas.draw(true, true);
    await new Promise(done => setTimeout(done, 300));  // widgets that are HTML follow with the next frame
    const canvas = app.canvas.canvas.getBoundingClientRect(), rim = 8, size = side => side * scale + 2 * rim;
    return {x: canvas.x + 100 - rim, y: canvas.y + 200 - rim, width: size(width), height: size(height)};
}
"""


def finished(page: Any, template: str) -> Image.Image:
    """The groups of a template that has run."""
    workflow = json.loads((CLONE / "workflows" / f"{template}.json").read_text(encoding="utf-8"))
    page.evaluate("async workflow => { await app.loadGraphData(workflow); await app.queuePrompt(0); }", workflow)
    pictures = "app.graph._nodes.filter(node => /^(Save|Preview)Image$/.test(node.type)).map(node => node.imgs?.[0])"
    page.wait_for_function(f"{pictures}.every(image => image?.complete && image.naturalWidth)", timeout=600_000)
    return Image.open(io.BytesIO(page.screenshot(clip=page.evaluate(AROUND)))).convert("RGB")


def smallest_template(kind: str) -> Path | None:
    """The template with the fewest nodes, of those for artists where one of them uses it."""
    sizes = {}
    for path in sorted((CLONE / "workflows").glob("*.json")):
        kinds = [node["type"] for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]]
        if kind in kinds:
            sizes[path] = (path.stem.startswith("study_"), len(kinds))
    return min(sizes, key=sizes.__getitem__, default=None)


# Both


def beside(pictures: list[Image.Image], height: int, gap: int = 6) -> Image.Image:
    sheet = Image.new("RGB", (sum(each.width for each in pictures) + gap * (len(pictures) - 1), height), CANVAS)
    left = 0
    for picture in pictures:
        # a picture that is smaller than its room stands in the middle of it
        sheet.paste(picture, (left, (height - picture.height) // 2))
        left += picture.width + gap
    return sheet


def put_into(page: Path, caption: str) -> None:
    """The picture's line, below the first paragraph."""
    title, first, rest = page.read_text(encoding="utf-8").split("\n\n", 2)
    line = f"![{caption}](images/{page.stem}.jpg)"
    if line not in rest:
        rest = re.sub(rf"!\[[^\]]*\]\(images/{page.stem}\.jpg\)\n\n", "", rest)
        page.write_text("\n\n".join((title, first, line, rest)), encoding="utf-8")


def pages_without() -> list[str]:
    return [page.stem for page in sorted(PAGES.glob("*.md")) if "](images/" not in page.read_text(encoding="utf-8")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nodes", nargs="*", help="ids; those whose page has no picture where none is named")
    wanted = parser.parse_args().nodes or pages_without()
    with Server(environment.get(None), cpu=True) as server, editor(server, viewport=VIEW) as page:
        info = server.object_info()
        upload_inputs(server)
        upload_digit(server)
        for key in wanted:
            if key == "graph":
                finished(page, "inpaint_photo").save(PICTURES / "graph.jpg", quality=85, optimize=True)
                continue
            name, template = info[key]["display_name"], smallest_template(key)
            if info[key]["category"] == OPERATORS:
                picture, caption = before_and_after(server, info, key), f"A photo before and after {name}"
            else:
                picture, caption = drawn(page, key, template), f"The node {name}"
                caption += f" in the template {template.stem}, and what that gives" if template else ""
                if not template and (made := answers(server, info, key)):
                    picture = beside([picture, made], max(picture.height, made.height))
                    caption += ", a digit whose lower half is hidden, and four answers"
            picture.save(PICTURES / f"{key}.jpg", quality=75, optimize=True)
            put_into(PAGES / f"{key}.md", caption)
            print(key, flush=True)


if __name__ == "__main__":
    main()
