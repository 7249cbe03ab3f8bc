"""What the demo computes beside the server: its figures and its baselines."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio

from posterior.photos import load_damage, load_photo
from posterior.tools import demo, demo_page
from posterior.tools.server import CLONE

PHOTO = load_photo("chelsea", 64)[0].double().numpy()


def test_psnr_is_the_usual_one_and_counts_the_hole_only():
    noisy = PHOTO + 0.1 * np.random.default_rng(0).standard_normal(PHOTO.shape)
    assert demo.psnr(noisy, PHOTO) == pytest.approx(peak_signal_noise_ratio(PHOTO, noisy, data_range=1))
    where = np.zeros((64, 64), dtype=bool)
    where[:8] = True
    assert demo.psnr(noisy, PHOTO, where) == pytest.approx(peak_signal_noise_ratio(PHOTO[:8], noisy[:8], data_range=1))


def test_settings_come_from_the_nodes_of_the_damage():
    prompt = {
        "1": {"class_type": "PosteriorExamplePhoto", "inputs": {"photo": "chelsea", "size": 64}},
        "2": {"class_type": "PosteriorGaussianBlur", "inputs": {"sigma": 2.0}},
        "3": {"class_type": "KSampler", "inputs": {"seed": 1}},
    }
    assert demo.settings_of(prompt) == {"photo": "chelsea", "size": 64, "sigma": 2.0}


def test_the_wiener_baseline_undoes_a_blur_up_to_the_edge():
    damaged = np.stack([gaussian_filter(PHOTO[..., c], 1.0, mode="reflect") for c in range(3)], -1)
    restored, _ = demo.blur_baseline({"damaged": damaged, "original": PHOTO}, {"sigma": 1.0})
    border = np.ones((64, 64), dtype=bool)
    border[4:-4, 4:-4] = False
    assert demo.psnr(restored, PHOTO, border) > demo.psnr(damaged, PHOTO, border) + 6


def test_the_biharmonic_baseline_fills_the_hole_and_nothing_else():
    damage = "text and scratches"
    hole = load_damage(damage, 64)[0].numpy() > 0
    damaged = PHOTO * ~hole[..., None]
    restored, where = demo.hole_baseline({"damaged": damaged, "original": PHOTO}, {"damage": damage, "size": 64})
    assert (where == hole).all() and np.allclose(restored[~hole], PHOTO[~hole])
    assert demo.psnr(restored, PHOTO, hole) > demo.psnr(damaged, PHOTO, hole) + 6


@pytest.mark.parametrize("job", demo.JOBS)
def test_the_demos_workflows_save_what_it_needs(job: str):
    workflow = json.loads((CLONE / "workflows" / f"{demo.JOBS[job][0]}.json").read_text(encoding="utf-8"))
    saved = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "SaveImage"]
    assert {"original", "damaged", "repaired"} <= {prefix.rsplit("/", 1)[-1] for prefix in saved}
    assert any(node["type"] == "PosteriorMeasurementFit" for node in workflow["nodes"])


def test_the_page_holds_its_pictures_and_numbers(tmp_path):
    rng, files = np.random.default_rng(0), {}
    for job in demo.JOBS:
        for name in ("original", "damaged", "baseline", "repaired"):
            files[job, name] = tmp_path / f"{job}_{name}.png"
            Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).save(files[job, name])
    figures = {"psnr_damaged": 7.1, "psnr_baseline": 25.3, "psnr_result": 31.94, "fit": 0.8, "model_calls": 12}
    report = {"host_version": "<0.3.75>", "seconds": 40.2, "hole": {**figures, "seconds": 3.0}}
    text = demo_page.written(tmp_path, {**report, "blur": {**report["hole"], "fit": 0.97}}, (8, 6)).read_text("utf-8")
    held = [base64.b64decode(content) for content in re.findall(r'src="data:image/png;base64,([^"]+)"', text)]
    assert sorted(held) == sorted(path.read_bytes() for path in files.values())
    assert all(number in text for number in ("7.1 dB", "25.3 dB", "31.9 dB", "0.80", "0.97", "&lt;0.3.75&gt;"))
    assert not re.search(r"(src|href)=.(https?:)?//", text)  # nothing from elsewhere


@pytest.mark.parametrize("variables, opens", [({"CI": "true", "DISPLAY": ":0"}, False), ({"DISPLAY": ":0"}, True)])
def test_the_page_opens_for_people_only(monkeypatch, variables, opens):
    monkeypatch.setattr(demo_page.sys, "platform", "linux")
    monkeypatch.setattr(demo_page.os, "environ", variables)
    assert demo_page.may_open() == opens
    variables.pop("DISPLAY")
    assert not demo_page.may_open()
