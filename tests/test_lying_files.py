"""Checkpoints that lie: refused in one sentence by every node that loads one; nothing runs, nothing is written."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save, save_file
from test_bad_input import sentence
from test_prior_checkpoints import adm_reference, diffusers_reference
from test_prior_denoisers import random_stack
from test_prior_files import folder, load

from posterior.algebra.refusal import Refusal
from posterior.priors.dncnn import DnCNN
from posterior.priors.unet import PhotoUNet

MARK = "posterior-was-here"
#: bytes that nothing below may take
LARGE = 1 << 26


class Code:
    """A pickle that writes a file when it is read."""

    def __reduce__(self):
        return (Path.touch, (Path(MARK),))


def denoiser() -> dict:
    """A good one, which each lie spoils."""
    return random_stack([1, 4, 4, 1])


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model.0.weight": Code()}, protocol=2))


def packed_code(path: Path) -> None:
    """Code in the pickle of a torch archive, beside good weights."""
    torch.save(denoiser(), path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, pickle.dumps(Code(), 2) if name.endswith("data.pkl") else content)


def truncated(path: Path) -> None:
    torch.save(denoiser(), path)
    path.write_bytes(path.read_bytes()[:-400])


def cut_tensors(path: Path) -> None:
    path.write_bytes(save(denoiser())[:-10])


def long_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")


def claimed_offsets(path: Path) -> None:
    header = json.dumps({"model.0.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))


def zip_bomb(path: Path) -> None:
    """Zeros that deflate a thousandfold."""
    torch.save({"model.0.weight": torch.zeros(LARGE // 4)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def one_number_for_all(path: Path) -> None:
    """A tensor of a terabyte that is one number, repeated."""
    torch.save({**denoiser(), "model.0.weight": torch.zeros(1).expand(1 << 38)}, path)


def wide_layers(path: Path) -> None:
    """A few numbers that describe layers of a terabyte."""
    stack = denoiser()
    names = [name for name in stack if name.endswith("weight")]
    stack[names[0]] = torch.zeros(1 << 18, 1, 1, 1)
    torch.save(stack, path)


def wrong_shapes(path: Path) -> None:
    stack = denoiser()
    name = [name for name in stack if name.endswith("weight")][1]
    torch.save({**stack, name: torch.zeros(4, 3, 3, 3)}, path)


def no_tensors(path: Path) -> None:
    torch.save({"model.0.weight": "a word", 3: torch.zeros(1)}, path)


def numbers_only(path: Path) -> None:
    torch.save({"model.0.weight": torch.zeros(()), "head.weight": torch.zeros(())}, path)


def sparse(path: Path) -> None:
    weight = torch.sparse_coo_tensor(torch.zeros(4, 1, dtype=torch.long), torch.ones(1), (1 << 16, 1 << 16, 3, 3))
    torch.save({**denoiser(), "model.0.weight": weight}, path)


def one_tensor(path: Path) -> None:
    torch.save(torch.zeros(3), path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


LIES = {
    "code.pt": pickled, "packed_code.pt": packed_code, "truncated.pt": truncated, "cut.safetensors": cut_tensors,
    "header.safetensors": long_header, "offsets.safetensors": claimed_offsets, "bomb.pt": zip_bomb,
    "repeated.pt": one_number_for_all, "wide.pt": wide_layers, "shapes.pt": wrong_shapes, "words.pt": no_tensors,
    "numbers.pt": numbers_only, "sparse.pt": sparse, "tensor.pt": one_tensor, "empty.pt": empty,
    "empty.safetensors": empty,
}  # fmt: skip
LOADERS = ("PosteriorLoadDenoiser", "PosteriorLoadPixelCheckpoint", "PosteriorLoadSupervisedPrior")


def loaded(host, loader: str, name: str):
    """What a loader node makes of a file."""
    if loader == "PosteriorLoadPixelCheckpoint":
        return load(host, name)
    if loader == "PosteriorLoadDenoiser":
        return host.call(loader, file=name)
    picture = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    operator = host.call("PosteriorIdentity")
    seen = host.call("PosteriorSimulate", image=picture, operator=operator, sigma_y=0.1, seed=0)
    return host.call(loader, file=name, measurement=seen)


def home(loader: str) -> Path:
    return folder("posterior_denoisers" if loader == "PosteriorLoadDenoiser" else "diffusion_models")


def everything(path: Path) -> set[str]:
    return {str(file) for file in path.rglob("*")}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("loader", LOADERS)
def test_a_lie_is_refused(host, tmp_path, monkeypatch, loader, lie):
    monkeypatch.chdir(tmp_path)
    path = home(loader) / f"Lie_{lie}"
    LIES[lie](path)
    there = everything(home(loader))
    before = psutil.Process().memory_info().rss
    try:
        with pytest.raises(Refusal) as refusal:
            loaded(host, loader, path.name)
    finally:
        grown = psutil.Process().memory_info().rss - before
        left = everything(home(loader)), everything(tmp_path)
        path.unlink()
    assert sentence(str(refusal.value)), refusal.value
    assert left == (there, set()) and grown < LARGE


@pytest.mark.parametrize("name", ["../secret.pt", "a/../../secret.pt", "/etc/passwd", "..", "", "none.pt", "\0"])
@pytest.mark.parametrize("loader", LOADERS)
def test_names_lead_nowhere_else(host, loader, name):
    torch.save(denoiser(), home(loader).parent / "secret.pt")
    with pytest.raises(Refusal, match="no such file in the folder"):
        loaded(host, loader, name)


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "../secret.jpg [output]", "", "\0", "none.jpg"])
def test_a_jpeg_s_name_leads_nowhere_else(host, name):
    import folder_paths

    (Path(folder_paths.get_input_directory()).parent / "secret.jpg").write_bytes(b"secret")
    with pytest.raises(Refusal, match="no such file in the input folder"):
        host.call("PosteriorReadJPEG", file=name)


@pytest.mark.parametrize("key, value", [
    ("norm_num_groups", 0), ("norm_num_groups", "32"), ("attention_head_dim", -8), ("attention_head_dim", [8]),
    ("norm_eps", None), ("norm_eps", {}), ("beta_start", "x"), ("beta_end", 7.0), ("num_train_timesteps", 10**12),
    ("num_train_timesteps", 0.5), ("beta_schedule", ["linear"]), ("act_fn", {}), ("freq_shift", "a"),
])  # fmt: skip
def test_the_files_beside_a_model_lie(host, key, value):
    reference, _ = diffusers_reference("default")
    path = folder("diffusion_models") / "lying"
    path.mkdir(exist_ok=True)
    weights = {name: weight.contiguous() for name, weight in reference.state_dict().items()}
    save_file(weights, path / "diffusion_pytorch_model.safetensors")
    config = {**reference.config, key: value}
    (path / "config.json").write_text(json.dumps(config))
    (path / "scheduler_config.json").write_text(json.dumps({"beta_schedule": "linear", key: value}))
    if (key, value) == ("norm_eps", None):  # as if it were not there
        assert load(host, "lying/diffusion_pytorch_model.safetensors")
        return
    with pytest.raises(Refusal) as refusal:
        load(host, "lying/diffusion_pytorch_model.safetensors")
    assert sentence(str(refusal.value)), refusal.value


@pytest.mark.parametrize("loader", LOADERS)
def test_honest_files_are_loaded_with_what_they_share(host, loader):
    """Weights that two names share are stored once: that is no lie."""
    path = home(loader) / "honest.pt"
    if loader == "PosteriorLoadDenoiser":
        weights = DnCNN(1, 4, 3).state_dict()
    elif loader == "PosteriorLoadPixelCheckpoint":
        weights = adm_reference("ffhq")[0].state_dict()
    else:
        weights = PhotoUNet((8, 8), (1, 1), given=3).state_dict()
        path = path.with_suffix(".safetensors")
    biases = [name for name in weights if name.endswith("bias")]
    twins = {len(weights[name]): name for name in biases}
    if path.suffix == ".pt":
        torch.save({**weights, **{name: weights[twins[len(weights[name])]] for name in biases}}, path)
    else:
        save_file(weights, path, {"operator": "noise", "noise": "0.1"})
    assert loaded(host, loader, path.name).model is not None
    path.unlink()


def test_every_node_that_reads_a_file_is_here(host):
    """A node with a choice of the user's files appears above."""
    promise = json.loads((Path(__file__).parent / "object_info.json").read_text(encoding="utf-8"))
    reads = {key for key, node in promise.items() if any(entry[:2] == ["file", "COMBO"] for entry in node["inputs"])}
    assert reads == {*LOADERS, "PosteriorReadJPEG"}
