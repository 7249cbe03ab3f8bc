"""A model that looks in windows: one picture without seams, its gradient, its cost."""

from __future__ import annotations

import pytest
import tiny_families
import torch
from guided_host import Probe
from torch import Tensor

from posterior.guidance.ddnm import DDNM
from posterior.guidance.dps import DPS
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators.inpainting import Inpainting
from posterior.samplers.ddim import GuidedDDIM

SIDE, WINDOW = 120, 48


@pytest.fixture(scope="module")
def texture(host):
    """A stationary Gaussian prior: clouds of 5 pixels that know nothing of what is 12 pixels away."""
    noise = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(noise, (2, 2, 2, 2), mode="circular"), 5, 1)
    return host.call("PosteriorTexturePrior", image=(0.5 + 0.5 * smooth).movedim(1, -1), floor=0.02)


def measured(hole: Tensor, picture: Tensor | None = None) -> Measurement:
    if picture is None:
        picture = torch.rand(1, 3, *hole.shape[-2:], generator=torch.Generator().manual_seed(7))
    return Measurement.observe(Inpainting(hole), picture, GaussianNoise(0.0))


def sampler_for(block, vae=None, sampler=None, trace=None):
    from posterior.host.run import Guide
    from posterior.host.sampler import GuidedSampler

    return GuidedSampler((Guide(block, vae, trace),), sampler or GuidedDDIM(0.0))


def counted(model, sizes: list[tuple[int, int]]):
    """A clone that notes the size of each picture that the network itself is shown."""
    import comfy.patcher_extension

    def note(executor, x, *args, **kwargs):
        sizes.append(tuple(x.shape[-2:]))
        return executor(x, *args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "count", note)
    return clone


def test_a_texture_in_windows_is_the_texture_of_the_whole(host, texture):
    """The same path with exact denoising of the whole, which a stationary prior has in closed form at any size."""
    hole = torch.zeros(1, 1, SIDE, SIDE)
    hole[..., 30:70, 20:90] = (torch.rand(40, 70, generator=torch.Generator().manual_seed(1)) < 0.7).float()
    with torch.inference_mode(False), torch.no_grad():
        truth = (texture.model.diffusion_model.prior((3, SIDE, SIDE)).sample(1, 3) + 1) / 2
    measurement, sizes = measured(hole, truth.reshape(1, 3, SIDE, SIDE).float()), []
    model = host.call("PosteriorTiledModel", model=texture, window=WINDOW, overlap=0.25)
    sampler, sigmas = sampler_for(DDNM(measurement)), torch.tensor([3.0, 1.5, 0.8, 0.4, 0.2, 0.1, 0.0])
    latent = host.latent(1, 3, SIDE, SIDE)
    whole, _ = host.sample(texture, sampler, sigmas, latent)
    got, _ = host.sample(counted(model, sizes), sampler, sigmas, latent)

    missing = hole.expand_as(got) > 0
    assert (got - whole)[~missing].abs().max() < 1e-5  # as measured, up to float32
    error = (got - whole)[missing].square().mean().sqrt() / whole[missing].std()
    print(f"error {error:.3f} of the texture")
    assert error < 0.12  # 0.09: what a window does not know within 12 pixels of its edge
    # 3 x 3 windows of 48 with an overlap of 12 are all it takes
    area = sum(height * width for height, width in sizes) / (len(sigmas) - 1)
    assert set(sizes) == {(WINDOW, WINDOW)} and area <= 1.1 * SIDE**2 * (WINDOW / 36) ** 2

    windows = model.get_attachment("posterior_tiled").over(SIDE, SIDE, len(sigmas) - 2)
    edges = sorted({edge for rows, _ in windows for edge in (rows.start, rows.stop) if 0 < edge < SIDE})
    step = (got[..., 1:, :] - got[..., :-1, :]).abs().mean(dim=(0, 1, 3))
    exact = (whole[..., 1:, :] - whole[..., :-1, :]).abs().mean(dim=(0, 1, 3))
    at = torch.tensor(edges) - 1
    print(f"steps across edges, of exact: {(step[at] / exact[at]).tolist()}")
    assert (step[at] < 1.1 * exact[at]).all()


def test_windows_cover_a_picture_and_move(host):
    from posterior.host.spaces.windows import Windows

    windows = Windows(48, 12)
    places = [windows.over(130, 48, step) for step in range(5)]
    assert len({tuple((rows.start, columns.start) for rows, columns in every) for every in places}) == 5
    for every in places:
        assert {columns.start for _, columns in every} == {0} and len(every) == 4
        ends = [(rows.start, rows.stop) for rows, _ in every]
        assert ends[0][0] == 0 and ends[-1][1] == 130
        assert all(after[0] <= before[1] - 6 for before, after in zip(ends, ends[1:], strict=False))
    assert Windows(48, 12).over(20, 30) == [(slice(0, 20), slice(0, 30))]


def test_only_windows_with_damage_are_computed(host, texture, monkeypatch):
    hole = torch.zeros(1, 1, SIDE, SIDE)
    hole[..., 5:9, 5:9] = 1
    measurement, sizes = measured(hole), []
    model = host.call("PosteriorTiledModel", model=texture, window=WINDOW, overlap=0.25, mask=hole[:, 0])
    sigmas, latent = torch.tensor([1.0, 0.5, 0.0]), host.latent(1, 3, SIDE, SIDE)
    asked, estimate = [], model.model.memory_required
    monkeypatch.setattr(
        model.model, "memory_required", lambda shape, **how: asked.append(shape) or estimate(shape, **how)
    )
    got, _ = host.sample(counted(model, sizes), sampler_for(DDNM(measurement)), sigmas, latent)
    assert sizes == [(WINDOW, WINDOW)] * 2
    assert asked[0][-2:] == [WINDOW, WINDOW]  # which the host keeps free
    assert (measurement.residual((got + 1) / 2)).abs().max() < 1e-6


def test_the_gradient_of_windows(host, monkeypatch):
    """J^T v of a flow transformer in nine windows of its latent, one after the other, by a central difference."""
    from posterior.host.record import RunRecord

    family = next(family for family in tiny_families.FAMILIES if family.name == "Flux")
    vae, sizes = tiny_families.vae_for(family.vae), []
    model = tiny_families.load(family, monkeypatch)
    model = host.call("PosteriorTiledModel", model=model, window=64, overlap=0.25)
    hole = torch.zeros(1, 1, 160, 160)
    hole[..., 40:90, 40:90] = 1
    trace, latent = RunRecord(), host.latent(1, 16, 20, 20)
    sampler = sampler_for(DPS(measured(hole)), vae, Probe(), trace)
    host.sample(counted(model, sizes), sampler, torch.tensor([0.7, 0.4]), latent, tiny_families.prompt(family))
    chain, difference = trace.record["slopes"]
    # states and predictions are float32: 1e-3 of a loss of hundreds over a step of 0.01
    assert chain > 0 and difference == pytest.approx(chain, rel=0.03)
    assert set(sizes) == {(8, 8)} and len(sizes) >= 4 * 9  # forward, backward and twice for the difference


def test_solve_looks_in_windows_where_a_picture_is_large(host, texture):
    """Our own network has more than a megapixel before it, or another more than the memory holds."""
    from posterior.host.models.prior_files import load_photo_prior
    from posterior.host.models.tiled import fitting

    hole = torch.zeros(1, 1, 1032, 1024)
    hole[..., 100:110, 100:110] = 1
    large, prior = measured(hole), load_photo_prior()
    model, words = fitting(prior, large, own_pixels=True)
    assert words == "in windows of 256 pixels around what is missing"
    assert len(model.get_attachment("posterior_tiled").over(1032, 1024)) == 1
    assert fitting(model, large, own_pixels=True) == (model, "")  # the user's own choice stays
    assert fitting(prior, large, own_pixels=False)[1] == "in windows of 256 pixels"
    assert fitting(texture, large, own_pixels=True) == (texture, "")  # a closed form has no size
    assert fitting(prior, measured(hole[..., :512, :512]), own_pixels=True) == (prior, "")
