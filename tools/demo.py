"""Repairs a real photo twice on a real ComfyUI, from the shared workflows, and says how well.

The pictures, `report.json` and a page that shows them, `index.html`, go to output/demo/; the page is opened where
there is a screen, unless --no-open is given. Each workflow is run as it is in workflows/, turned into a prompt as the
frontend does it; its Save Image nodes say by their file prefix what a picture is: original, damaged, repaired,
sample. The baselines are scikit-image's: biharmonic inpainting for the hole, and for the blur a Wiener filter whose
balance is tuned against the truth (an oracle that nobody has in practice).
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage.restoration import inpaint_biharmonic, wiener

from ..operators.kernels import gaussian
from ..photos import load_damage
from . import demo_page, environment
from .server import CLONE, Server
from .workflow import to_prompt

OUTPUT = CLONE / "output" / "demo"
Pictures = dict[str, np.ndarray]  # H W 3, in [0, 1]


def psnr(picture: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB for a peak of 1, over the pixels `where` (H W) is true."""
    error = (picture - truth) ** 2
    return float(-10 * np.log10((error if where is None else error[where]).mean()))


def hole_baseline(pictures: Pictures, settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Biharmonic inpainting, and the hole over which it is judged."""
    hole = load_damage(settings["damage"], settings["size"])[0].numpy() > 0
    return inpaint_biharmonic(pictures["damaged"], hole, channel_axis=-1).clip(0, 1), hole


def blur_baseline(pictures: Pictures, settings: dict[str, Any]) -> tuple[np.ndarray, None]:
    """The Wiener filter with the balance that is best for this very picture; it knows the mirrored edge."""
    kernel, damaged = gaussian(settings["sigma"])[0, 0].numpy(), pictures["damaged"]
    height, width, _ = damaged.shape
    mirrored = np.pad(damaged, ((0, height), (0, width), (0, 0)), "symmetric")  # periodic, as the filter has it

    def filtered(balance: float) -> np.ndarray:
        channels = [wiener(mirrored[..., c], kernel, balance)[:height, :width] for c in range(3)]
        return np.stack(channels, -1).clip(0, 1)

    results = [filtered(balance) for balance in np.logspace(-4, 1, 26)]
    return max(results, key=lambda result: psnr(result, pictures["original"])), None


JOBS: dict[str, tuple[str, Callable[..., Any]]] = {
    "hole": ("study_inpaint_photo", hole_baseline),
    "blur": ("study_deblur_photo", blur_baseline),
}


def settings_of(prompt: dict[str, Any]) -> dict[str, Any]:
    """What the workflow says about the damage: the inputs of its photo and operator nodes in one."""
    kinds = ("PosteriorExamplePhoto", "PosteriorInpainting", "PosteriorGaussianBlur")
    nodes = [node["inputs"] for node in prompt.values() if node["class_type"] in kinds]
    return {key: value for inputs in nodes for key, value in inputs.items()}


def run(server: Server, name: str) -> tuple[dict[str, Any], Pictures, dict[str, Any]]:
    """One workflow on the server: its prompt, its pictures by what they are, and figures of the run."""
    workflow = json.loads((CLONE / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    prompt = to_prompt(workflow, server.object_info())
    log, start = len(server.log()), time.monotonic()
    outputs = server.wait(server.submit(prompt, workflow))
    figures: dict[str, Any] = {"seconds": round(time.monotonic() - start, 1)}
    figures["model_calls"] = sum(map(int, re.findall(r"(\d+) model calls", server.log()[log:])))
    pictures: Pictures = {}
    for identity, node in prompt.items():
        if node["class_type"] == "SaveImage":
            content = server.images({identity: outputs[identity]})[0]
            what = node["inputs"]["filename_prefix"].rsplit("/", 1)[-1]
            pictures[what] = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=np.float64) / 255
        if node["class_type"] == "PosteriorMeasurementFit":
            figures["fit"] = float(re.search(r"[\d.]+(e-?\d+)?", outputs[identity]["text"][0])[0])
    return prompt, pictures, figures


def save(name: str, pictures: Pictures) -> Path:
    """Each picture, their difference and all of them side by side; gives the path of the last."""
    pictures = {**pictures, "difference": (0.5 + 2 * (pictures["repaired"] - pictures["original"])).clip(0, 1)}
    order = ("original", "damaged", "baseline", "repaired", "sample", "difference")
    row = [pictures[what] for what in order if what in pictures]
    for what, picture in {**pictures, "side_by_side": np.concatenate(row, axis=1)}.items():
        path = OUTPUT / f"{name}_{what}.png"
        Image.fromarray((picture * 255).round().astype(np.uint8)).save(path)
    return OUTPUT / f"{name}_side_by_side.png"


def main() -> None:
    start = time.monotonic()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {}
    with Server(environment.get(os.environ.get("COMFYUI_PATH"))) as server:
        report["host_version"] = server.system()["comfyui_version"]
        print(f"ComfyUI {report['host_version']} listens after {time.monotonic() - start:.0f} s.", flush=True)
        for job, (name, baseline) in JOBS.items():
            print(f"Running workflows/{name}.json ...", flush=True)
            prompt, pictures, figures = run(server, name)
            pictures["baseline"], where = baseline(pictures, settings_of(prompt))
            for key, what in (("damaged", "damaged"), ("baseline", "baseline"), ("result", "repaired")):
                figures[f"psnr_{key}"] = round(psnr(pictures[what], pictures["original"], where), 2)
            report[job] = figures
            size = pictures["original"].shape[1::-1]
            print(
                f"  PSNR {'over the hole' if where is not None else 'of the picture'}: damaged "
                f"{figures['psnr_damaged']:.1f} dB, baseline {figures['psnr_baseline']:.1f} dB, "
                f"repaired {figures['psnr_result']:.1f} dB\n"
                f"  fit (residual / noise, 1 is right): {figures['fit']:.2f}; {figures['model_calls']} model calls, "
                f"{figures['seconds']:.0f} s\n  {save(job, pictures)}",
                flush=True,
            )
    report["seconds"] = round(time.monotonic() - start, 1)
    (OUTPUT / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    page = demo_page.written(OUTPUT, report, size)
    print(f"Done in {report['seconds']:.0f} s. Pictures and report.json: {OUTPUT}\nAll on one page: {page}", flush=True)
    if "--no-open" not in sys.argv and demo_page.may_open():
        webbrowser.open(page.as_uri())


if __name__ == "__main__":
    main()
