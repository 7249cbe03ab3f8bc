"""The demo's last word: one HTML file with its pictures, wipe sliders, numbers, and what to try next.

Everything is in the file (pictures as data URIs, no script from elsewhere), so it can be sent to a friend.
"""

from __future__ import annotations

import base64
import html
import os
import string
import sys
from pathlib import Path
from typing import Any

NAMES = {
    "damaged": "damaged",
    "baseline": "classical",
    "repaired": "repaired",
    "sample": "a sample",
    "original": "original",
    "difference": "difference",
}
JOBS = {
    "hole": ("Scratches and lettering", "over the lost pixels", "biharmonic inpainting"),
    "blur": ("Out of focus", "of the picture", "a Wiener filter, tuned against the original (nobody has that)"),
}
PSNR = {"damaged": "damaged", "classical": "baseline", "repaired": "result"}  # as report.json calls them
NEXT = """
<li><code>python3 dev.py serve</code>, open the address it prints, then <b>Workflow &gt; Browse Templates &gt;
posterior</b>: <i>inpaint_photo</i>, <i>deblur_photo</i>, <i>jpeg_photo</i>, <i>super_resolution</i>,
<i>denoise_photo</i>; <i>repair_unknown</i> finds out by itself what happened.</li>
<li>Your own picture: put <b>Load Image</b> in the place of <i>Damaged Old Photo</i> and paint the damage in its mask
editor.</li>
<li>Your own model (SD1.5, SDXL, Flux ...): put its loader in the place of <i>Embedded Photo Prior</i> and connect its
VAE to <i>Solve Inverse Problem</i>. These pictures are by a small prior that is included.</li>
<li>Another answer: set <b>estimate</b> to <i>samples</i> and change the seed. Where samples differ, nobody knows.</li>
"""
PAGE = string.Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>Posterior: two repairs</title>
<style>
:root { --ground: #f6f5f2; --card: #fff; --ink: #1d1c1a; --soft: #6a6760; --line: #dddad3; --accent: #b4541f; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #161614; --card: #21201e; --ink: #eceae5; --soft: #a19d94; --line: #3a3834; --accent: #f0915a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 1.2rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: .4rem 0 0; } h2 { font-size: 1.15rem; margin: 0 0 .7rem; }
p { margin: .4rem 0 1.2rem; color: var(--soft); }
main { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 1.1rem; }
.wipe { position: relative; aspect-ratio: var(--shape); border-radius: 8px; overflow: hidden; touch-action: pan-y;
  --cut: 50%; }
.wipe img { position: absolute; inset: 0; width: 100%; height: 100%; }
.wipe .left { clip-path: inset(0 calc(100% - var(--cut)) 0 0); }
.wipe::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--cut); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 4px #000; pointer-events: none; }
.wipe input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize; }
.wipe:has(input:focus-visible) { outline: 3px solid var(--accent); outline-offset: 2px; }
.sides { display: flex; justify-content: space-between; gap: .6rem; margin: .7rem 0; }
select { font: inherit; min-height: 2.5rem; padding: .2rem .5rem; border: 1px solid var(--line); border-radius: 8px;
  background: var(--ground); color: var(--ink); max-width: 48%; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .35rem 0; border-top: 1px solid var(--line); text-align: left; font-weight: normal; }
td { text-align: right; white-space: nowrap; } tr.best td, tr.best th { color: var(--accent); font-weight: 600; }
small { color: var(--soft); display: block; margin-top: .6rem; }
.next { margin-top: 1.2rem; } .next ul { margin: 0; padding-left: 1.2rem; } .next li { margin: .35rem 0; }
code { background: var(--ground); border: 1px solid var(--line); border-radius: 5px; padding: .05rem .3rem; }
</style>
<h1>Two repairs</h1>
<p>Drag across a picture. ComfyUI $version, $seconds s in all, on this machine.</p>
<main>$jobs</main>
<section class="next"><h2>What to try next</h2><ul>$next</ul></section>
<script>
for (const section of document.querySelectorAll("main section")) {
  const wipe = section.querySelector(".wipe");
  const sources = Object.fromEntries([...section.querySelector("template").content.querySelectorAll("img")]
    .map(image => [image.dataset.name, image.getAttribute("src")]));
  wipe.querySelector("input").oninput = event => wipe.style.setProperty("--cut", event.target.value + "%");
  section.querySelectorAll("select").forEach((select, side) => {
    const show = () => wipe.querySelectorAll("img")[1 - side].src = sources[select.value];
    select.onchange = show;
    show();
  });
}
</script>
</html>
""")
JOB = string.Template("""
<section><h2>$title</h2>
<template>$pictures</template>
<div class="wipe" style="--shape: $width / $height">
<img class="right" alt="right side"><img class="left" alt="left side">
<input type="range" min="0" max="100" value="50" step="0.2" aria-label="Where the two pictures meet"></div>
<div class="sides"><select aria-label="Picture on the left">$left</select>
<select aria-label="Picture on the right">$right</select></div>
<table>$rows</table>
<small>PSNR $where: higher is nearer to the original. Classical: $baseline. Fit: what is left over what the noise
explains; 1 is right for a sample, a restoration may lie a little below.</small>
</section>""")


def page(report: dict[str, Any], pictures: dict[str, dict[str, bytes]], size: tuple[int, int]) -> str:
    """The file's content.

    Args:
        report: as report.json has it; its jobs are those of `pictures`.
        pictures: PNG files by job and by what they are (NAMES).
        size: width and height, for all of them.
    """
    jobs = []
    for job, files in pictures.items():
        figures, (title, where, baseline) = report[job], JOBS[job]
        names = [name for name in NAMES if name in files]
        psnr = {name: figures[f"psnr_{key}"] for name, key in PSNR.items()}
        best = max(psnr, key=psnr.__getitem__)
        rows = [
            *(_row(f"PSNR, {name}", f"{value:.1f} dB", "best" * (name == best)) for name, value in psnr.items()),
            _row("Fit", f"{figures['fit']:.2f}"),
            _row("Model calls, seconds", f"{figures['model_calls']}, {figures['seconds']:.0f} s"),
        ]
        values = {
            "title": title,
            "pictures": "".join(f'<img data-name="{name}" src="{_uri(files[name])}">' for name in names),
            "left": _options(names, "damaged"),
            "right": _options(names, "repaired"),
            "rows": "".join(rows),
            "where": where,
            "baseline": baseline,
            "width": size[0],
            "height": size[1],
        }
        jobs.append(JOB.substitute(values))
    version = html.escape(str(report["host_version"]))
    return PAGE.substitute(version=version, seconds=f"{report['seconds']:.0f}", jobs="".join(jobs), next=NEXT)


def may_open() -> bool:
    """Whether somebody sits in front of a screen: not in CI, nor where there is no display."""
    screen = sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(screen) and not os.environ.get("CI")


def written(folder: Path, report: dict[str, Any], size: tuple[int, int]) -> Path:
    """Writes index.html from the pictures of the folder, `JOB_NAME.png`; gives its path."""
    pictures = {
        job: {name: path.read_bytes() for name in NAMES if (path := folder / f"{job}_{name}.png").is_file()}
        for job in JOBS
        if job in report
    }
    path = folder / "index.html"
    path.write_text(page(report, pictures, size), encoding="utf-8")
    return path


def _row(name: str, value: str, kind: str = "") -> str:
    return f'<tr class="{kind}"><th>{name}</th><td>{value}</td></tr>'


def _options(names: list[str], chosen: str) -> str:
    mark = {chosen: " selected"}
    return "".join(f'<option value="{name}"{mark.get(name, "")}>{NAMES[name]}</option>' for name in names)


def _uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()
