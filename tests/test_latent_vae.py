"""The host's VAE as a differentiable function: values, gradients, tiles, blocks."""

from __future__ import annotations

import pytest
import torch
from guided_host import dynamic_patcher
from host_vaes import autoencoder, load_taesd, narrow_kl, vae_of
from patch_codec import F64

from posterior.benchmarks.latent import decoder
from posterior.measurement.decoded import Decoded, Linearised
from posterior.operators.downscale import downscale


@pytest.fixture(scope="module")
def taesd(host, tmp_path_factory):
    return load_taesd(tmp_path_factory.mktemp("checkpoints") / "vae.safetensors")


def precise(taesd, kind: str):
    """A VAE that computes in float64."""
    network = narrow_kl()
    if kind == "taesd":
        network = type(taesd.first_stage_model)(latent_channels=4)
        network.load_state_dict({k: v.clone() for k, v in taesd.first_stage_model.state_dict().items()})
    return vae_of(taesd, network, F64)


@pytest.mark.parametrize("kind", ["taesd", "kl"])
def test_decode_and_encode_are_the_host_s(host, taesd, kind):
    """In float64, since sums are made in another order."""
    with torch.inference_mode(False):
        vae = precise(taesd, kind)
    codec = autoencoder(vae)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = vae.decode(z).movedim(-1, 1)
        got = codec.decode(z)
        assert (got < 0).any()  # not cut
        torch.testing.assert_close(got.clamp(0, 1), expected)
        pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(6))
        torch.testing.assert_close(codec.encode(pictures), vae.encode(pictures.movedim(1, -1)).float())


@pytest.mark.parametrize(
    "kind, way",
    [
        ("taesd", {}), ("taesd", {"decoder": True, "tile": 64}), ("kl", {}), ("kl", {"decoder": True}),
    ],
)  # fmt: skip
def test_gradients_of_the_decoder_against_differences(host, taesd, kind, way):
    """Float64, in the ways of saving memory that leave nothing out."""
    with torch.inference_mode(False):
        codec = autoencoder(precise(taesd, kind), **way)
        generator = torch.Generator().manual_seed(1)
        z, d = (torch.randn(2, 4, 8, 8, dtype=F64, generator=generator) for _ in range(2))
        leaf = z.clone().requires_grad_()
        image = codec.decode(leaf)
        v = torch.randn(image.shape, dtype=F64, generator=generator)
        (gradient,) = torch.autograd.grad(image, leaf, v)
        h = 1e-6
        slope = (codec.decode(z + h * d) - codec.decode(z - h * d)) / (2 * h)
    expected = (v * slope).flatten(1).sum(1)
    assert ((gradient * d).flatten(1).sum(1) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_blocks_of_the_decoders(host, taesd):
    """What is checkpointed: residual, attention and sampling blocks of SD's VAE; the blocks of TAESD."""
    from posterior.host.spaces.vae import units

    names = [type(unit).__name__ for unit in units(narrow_kl().decoder)]
    levels = ["ResnetBlock"] * 2, *(["ResnetBlock", "ResnetBlock", "Upsample"] for _ in range(3))
    assert names == ["ResnetBlock", "AttnBlock", "ResnetBlock", *sum(levels, [])]
    assert {type(unit).__name__ for unit in units(taesd.first_stage_model)} == {"Block"}


@pytest.mark.parametrize("kind", ["taesd", "kl"])
def test_tiles_are_exact(host, taesd, kind):
    """A strip of three tiles: the picture is that of one piece, seams and borders included; so is TAESD's gradient."""
    import comfy.model_management

    from posterior.host.autograd.memory_plan import MemoryPlan

    with torch.inference_mode(False):
        vae = precise(taesd, kind)
        codec = autoencoder(vae, (32, 512), (4, 64))
        z = torch.randn(1, 4, 4, 64, dtype=F64, generator=torch.Generator().manual_seed(2))
        results = []
        for plan in (MemoryPlan(), MemoryPlan(decoder=True, tile=24)):
            codec.plan = plan
            leaf = z.clone().requires_grad_()
            image = codec.decode(leaf)
            v = torch.randn(image.shape, dtype=F64, generator=torch.Generator().manual_seed(3))
            (gradient,) = torch.autograd.grad(image, leaf, v, retain_graph=True)
            assert torch.equal(gradient, torch.autograd.grad(image, leaf, v, retain_graph=True)[0])
            results.append((image.detach(), gradient))
        comfy.model_management.interrupt_current_processing()
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            torch.autograd.grad(image, leaf, v)
    (whole, exact), (tiled, gradient) = results
    torch.testing.assert_close(tiled, whole, rtol=1e-9, atol=1e-9)
    if kind == "taesd":
        torch.testing.assert_close(gradient, exact, rtol=1e-9, atol=1e-9)
    else:
        assert torch.cosine_similarity(gradient.flatten(), exact.flatten(), 0) > 0.97
    modules = list(vae.first_stage_model.modules())  # all is as it was, after the interrupt as well
    assert not any("forward" in vars(module) or type(module).__name__ == "WholeNorm" for module in modules)


def test_forward_derivatives_of_the_decoder(host, taesd):
    """What Gauss-Newton methods need: J v and J^T v of the real networks agree."""
    from posterior.host.autograd.gradients import GradientScope

    for network in (narrow_kl(), None):
        vae = taesd if network is None else vae_of(taesd, network, F64)
        with GradientScope([vae.first_stage_model]), torch.inference_mode(False):
            composed = Decoded(downscale(4, "box"), autoencoder(vae))
            z, d = (torch.randn(1, 4, 8, 8, dtype=F64, generator=torch.Generator().manual_seed(i)) for i in (3, 4))
            linear = Linearised(composed, z)
            v = torch.randn(1, 3, 16, 16, dtype=F64, generator=torch.Generator().manual_seed(5))
            left, right = (v * linear.forward(d)).sum().item(), (linear.adjoint(v) * d).sum().item()
        assert left == pytest.approx(right, rel=1e-9)


@pytest.mark.parametrize("kind", ["taesd", "kl"])
def test_weights_that_a_newer_host_moves(host, taesd, kind):
    """A VAE whose weights move is replaced by one of the same weights that stay, and is left as it is."""
    import comfy.model_patcher

    from posterior.host.spaces.vae import static_vae

    vae = decoder("vae") if kind == "kl" else taesd
    assert static_vae(vae) is vae
    vae = vae_of(vae, vae.first_stage_model, vae.vae_dtype)
    vae.patcher = moving = dynamic_patcher()(vae.first_stage_model, vae.device, vae.device)
    with torch.inference_mode():
        static = static_vae(vae)
        ours, theirs = ({w.data_ptr() for w in each.first_stage_model.parameters()} for each in (static, vae))
        assert not ours & theirs
        z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        assert torch.equal(static.decode(z), vae.decode(z))
    assert static_vae(vae) is static  # made once, case D6
    assert static.patcher.model is static.first_stage_model and type(static.patcher) is comfy.model_patcher.ModelPatcher
    assert vae.patcher is moving
