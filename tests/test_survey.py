"""The page of methods: all 36 of the survey, each built from its row and run in the host, nothing that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import tiny_models
import torch
from guided_host import SIZE, gaussian_model

from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.inpainting import Inpainting
from posterior.tools.server import CLONE

PAGE = CLONE / "docs" / "survey.md"
#: settings that make a run as short as it can be
SHORT = {
    "iterations": 2, "inner": 2, "hold": 2, "corrections": 2, "more": 2, "gradients": 2, "langevin": 2, "batch": 2,
    "couplings": 1, "limit": 12, "levels": 4, "draws": 2, "particles": 2, "size": 3,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row: number (empty beyond the survey), name, where it is, what it solves, the rest."""

    cells: tuple[str, ...]

    @property
    def name(self) -> str:
        return re.sub(r"\[(.*?)\]\(.*?\)", r"\1", self.cells[1])

    @property
    def nodes(self) -> list[str]:
        return re.findall(r"\]\(\.\./web/docs/(\w+)\.md\)", self.cells[2])

    @property
    def settings(self) -> dict[str, str]:
        return dict(re.findall(r"`(\w+) = ([^`]+)`", self.cells[2]))


def rows() -> Iterator[Row]:
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = tuple(cell.strip() for cell in line.strip("|").split("|"))
        if line.startswith("| ") and cells[-1] not in ("exact", "---"):
            yield Row(cells if len(cells) == 6 else ("", *cells))


ROWS = list(rows())
HERE = [row for row in ROWS if row.nodes]


def test_all_of_the_survey_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d+) \|", text, re.M) == [str(number) for number in range(1, 37)]
    assert len(ROWS) > 45 and all(row.nodes or row.cells[2].startswith("not here") for row in ROWS)
    for target in re.findall(r"\]\((\.\./[^)]*)\)", text):
        assert (PAGE.parent / target).exists(), target


@pytest.fixture(scope="module")
def pixels(host):
    return gaussian_model(host), None, None, (3, SIZE, SIZE)


@pytest.fixture(scope="module")
def latents(host, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent")
    model = tiny_models.load(tiny_models.sd15(folder / "sd15.safetensors"))
    vae = tiny_models.load_vae(tiny_models.vae(folder / "vae.safetensors"))
    return model, vae, host.conditioning(), (4, 8, 8)


def measurement(side: int, sigma: float) -> Measurement:
    mask = torch.zeros(1, 1, side, side)
    mask[..., side // 2 :] = 1
    picture = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(3))
    return Measurement.observe(Inpainting(mask), picture, GaussianNoise(sigma))


def given(row: Row, node, short: bool) -> dict:
    """The row's settings that are this node's inputs, and what makes it short; fails for choices that it lacks."""
    found = {}
    for item in node.GET_SCHEMA().inputs or ():
        if item.id in row.settings:
            value = row.settings[item.id]
            if getattr(item, "options", None):
                assert value in item.options
            else:
                value = type(item.default)(float(value))
                assert item.min <= value <= item.max
            found[item.id] = value
        elif short and item.id in SHORT:
            found[item.id] = SHORT[item.id]
    return found


@pytest.mark.parametrize("row", HERE, ids=lambda row: row.name)
def test_a_row_runs_as_it_stands(row: Row, host, request, monkeypatch):
    from posterior.nodes import samplers_variational

    brief = {name: replace(preset, iterations=2) for name, preset in samplers_variational.NOISE_SPACE.items()}
    monkeypatch.setattr(samplers_variational, "NOISE_SPACE", brief)
    model, vae, prompt, shape = request.getfixturevalue("latents" if "latent" in row.cells[3] else "pixels")
    seen = measurement(8 * SIZE if vae else SIZE, 0.0 if "clean" in row.cells[3] else 0.1)
    guidance, sampler, unused = None, None, dict(row.settings)
    for name in row.nodes:
        node = host.nodes.NODE_CLASS_MAPPINGS[name]
        inputs = given(row, node, short=True)
        unused = {key: value for key, value in unused.items() if key not in inputs}
        schema = node.GET_SCHEMA()
        asked, outputs = {item.id for item in schema.inputs or ()}, [output.get_io_type() for output in schema.outputs]
        inputs |= {"measurement": seen} if "measurement" in asked else {}
        inputs |= {"vae": vae} if "vae" in asked and vae else {}
        inputs |= {"guidance": guidance} if "guidance" in asked and guidance else {}
        if outputs[0] == "SAMPLER":
            made = host.call(name, **inputs)
            sampler = made[0] if isinstance(made, tuple) else made
        elif outputs[0] == "LIKELIHOOD_GUIDANCE":
            guidance = host.call(name, **inputs)
        else:
            assert name == "PosteriorHowLikely"
    assert not unused, f"no node of the row has the settings {unused}"
    sampler = sampler or host.call("PosteriorGuidedDDIM", guidance=guidance, amount=1.0, noise_rule="eta")
    sigmas = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.0])
    latent = host.latent(1, *shape)
    samples, _ = host.sample(model, sampler, sigmas, latent, prompt)
    free, _ = host.sample(model, host.call("PosteriorGuidedDDIM", amount=1.0, noise_rule="eta"), sigmas, latent, prompt)
    assert samples.isfinite().all() and (samples - free).abs().max() > 1e-3
