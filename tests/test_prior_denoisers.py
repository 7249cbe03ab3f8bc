"""Published denoisers: architecture found from the keys, equal to other implementations with random weights."""

from __future__ import annotations

import deepinv
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posterior.priors.dncnn import DnCNN
from posterior.priors.drunet import DRUNet
from posterior.priors.ffdnet import FFDNet


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ours(kind: type, sd: dict[str, Tensor]) -> nn.Module:
    network = kind(**kind.config_from_state_dict(sd))
    network.load_state_dict(sd)
    return network.requires_grad_(False)


def random_stack(sizes: list[int]) -> dict[str, Tensor]:
    """Convolutions of random weights in KAIR's layout, model.0, model.2, ..."""
    sd = {}
    for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        sd[f"model.{2 * i}.weight"] = noise(b, a, 3, 3, seed=i) / (3 * a**0.5)
        sd[f"model.{2 * i}.bias"] = 0.1 * noise(b, seed=100 + i)
    return sd


@pytest.mark.parametrize("channels", [1, 3])
def test_drunet_equals_deepinv(channels):
    reference = deepinv.models.DRUNet(channels, channels, nc=(8, 12, 16, 20), nb=2, pretrained=None)
    network = ours(DRUNet, reference.state_dict())
    assert network.channels == channels
    u, v = noise(2, channels, 32, 40), noise(2, channels, 32, 40, seed=1)
    sigma = torch.tensor([0.05, 0.2])
    results = []
    for denoise in (network.denoise, reference):
        leaf = u.clone().requires_grad_()
        out = denoise(leaf, sigma)
        results.append((out, *torch.autograd.grad(out, leaf, v)))
    for mine, theirs in zip(*results, strict=True):
        assert (mine - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("channels", [1, 3])
def test_dncnn_equals_deepinv(channels):
    sd = random_stack([channels, 8, 8, 8, channels])
    reference = deepinv.models.DnCNN(channels, channels, depth=4, nf=8, pretrained=None)
    names = ["in_conv", "conv_list.0", "conv_list.1", "out_conv"]
    parts = [(2 * i, name, part) for i, name in enumerate(names) for part in ("weight", "bias")]
    pairs = {f"{name}.{part}": sd[f"model.{i}.{part}"] for i, name, part in parts}
    # there the network gives the picture, here the noise: the last layer has the other sign
    reference.load_state_dict({k: -v if k.startswith("out") else v for k, v in pairs.items()})
    u = noise(2, channels, 9, 11)
    assert torch.allclose(ours(DnCNN, sd).denoise(u, torch.tensor(0.1)), reference(u), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_ffdnet_is_its_convolutions_by_index(channels):
    """Unshuffling, the noise map and shuffling written out with strided slices."""
    sd = random_stack([4 * channels + 1, 6, 6, 4 * channels])
    u, sigma = noise(2, channels, 8, 6), torch.tensor([0.1, 0.3])
    slices = [u[:, c : c + 1, i::2, j::2] for c in range(channels) for i in (0, 1) for j in (0, 1)]
    h = torch.cat([*slices, sigma.reshape(2, 1, 1, 1).expand(2, 1, 4, 3)], 1)
    for i in range(3):
        h = F.conv2d(F.relu(h) if i else h, sd[f"model.{2 * i}.weight"], sd[f"model.{2 * i}.bias"], padding=1)
    expected = torch.empty_like(u)
    for n, (c, i, j) in enumerate((c, i, j) for c in range(channels) for i in (0, 1) for j in (0, 1)):
        expected[:, c, i::2, j::2] = h[:, n]
    assert torch.allclose(ours(FFDNet, sd).denoise(u, sigma), expected, atol=1e-6)


@pytest.mark.parametrize("kind, sizes", [(FFDNet, [5, 4, 4]), (DnCNN, [1, 4, 4, 1])], ids=["FFDNet", "DnCNN"])
def test_gray_denoisers_take_each_colour_on_its_own(kind, sizes):
    network = ours(kind, random_stack(sizes))
    u, sigma = noise(2, 3, 7, 5), torch.tensor([0.1, 0.2])
    each = torch.cat([network.denoise(u[:, c : c + 1], sigma) for c in range(3)], 1)
    assert torch.allclose(network.denoise(u, sigma), each, atol=1e-6)


@pytest.mark.parametrize("kind", [FFDNet, DRUNet, DnCNN])
def test_any_size_and_the_hosts_units(kind):
    """x = 2 u - 1, so x0_hat = 2 D(u; sigma / 2) - 1, and timesteps are log(sigma) / 4."""
    torch.manual_seed(0)
    sizes = {"widths": (4, 4, 4, 4), "blocks": 1} if kind is DRUNet else {"width": 4, "depth": 3}
    network = kind(**sizes).requires_grad_(False)
    u, sigma = noise(1, 3, 13, 18), torch.tensor([0.15])
    expected = 2 * network.denoise(u, sigma) - 1
    assert torch.allclose(network(2 * u - 1, (2 * sigma).log() / 4), expected, atol=1e-5)
    assert expected.shape == u.shape


def test_one_kind_does_not_take_the_weights_of_another():
    drunet = DRUNet(widths=(4, 4, 4, 4), blocks=1).state_dict()
    files = {FFDNet: random_stack([13, 6, 12]), DnCNN: random_stack([3, 6, 3]), DRUNet: drunet}
    for owner, sd in files.items():
        for kind in files:
            if kind is owner:
                kind.config_from_state_dict(sd)
            else:
                with pytest.raises((KeyError, IndexError, ValueError)):
                    kind.config_from_state_dict(sd)
