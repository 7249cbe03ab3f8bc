"""What the demo computes beside the server: its figures and its baselines."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio

from posterior.photos import load_damage, load_photo
from posterior.tools import demo
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
