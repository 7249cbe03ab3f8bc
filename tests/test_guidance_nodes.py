"""The guidance nodes in the host: defaults that help, and refusals that say what to do."""

from __future__ import annotations

import math

import pytest
import torch

from posterior.algebra.refusal import Refusal
from posterior.operators.jpeg import JPEG
from posterior.operators.phase_retrieval import PhaseRetrieval

SIZE = 8
NODES = [
    "PosteriorAutoGuidance", "PosteriorDPS", "PosteriorLGDMC", "PosteriorMPGD", "PosteriorDSG", "PosteriorMCG",
    "PosteriorDDNM", "PosteriorDiffPIR", "PosteriorPiGDM", "PosteriorMomentMatching", "PosteriorDDRM", "PosteriorSNIPS",
    "PosteriorDDS", "PosteriorNoisedProjection", "PosteriorScoreALD", "PosteriorGeneralGuidance",
    "PosteriorSTSL",
]  # fmt: skip
OWNERS = {"PosteriorDSG", "PosteriorMCG", "PosteriorDDRM", "PosteriorNoisedProjection"}


@pytest.fixture(scope="module")
def gaussian(host):
    """A Gaussian pixel MODEL."""
    images = torch.rand(6, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    return host.call("PosteriorGaussianPrior", images=images, floor=0.05)


@pytest.fixture(scope="module")
def measurement(host):
    mask = torch.zeros(1, SIZE, SIZE)
    mask[..., SIZE // 2 :] = 1
    picture = torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    operator = host.call("PosteriorInpainting", mask=mask)
    return host.call("PosteriorObserve", image=picture, operator=operator, sigma_y=0.02)


@pytest.fixture(scope="module")
def sigmas():
    return torch.cat([torch.logspace(math.log10(20), -2, 24), torch.zeros(1)])


def schema(host, node_id: str):
    return host.nodes.NODE_CLASS_MAPPINGS[node_id].GET_SCHEMA()


def guides(host, node_id: str, measurement, **inputs):
    """The guidance of a node with its default inputs; strengths are for 256 pixels, in proportion to the side."""
    defaults = {i.id: i.default for i in schema(host, node_id).inputs if getattr(i, "default", None) is not None}
    if "strength" in defaults:
        defaults["strength"] *= SIZE / 256
    outputs = host.call(node_id, measurement=measurement, **{**defaults, **inputs})
    return outputs[0] if node_id == "PosteriorAutoGuidance" else outputs


def sampled(host, model, sigmas, guidance=()) -> torch.Tensor:
    sampler = host.call("PosteriorGuidedDDIM", amount=1.0, noise_rule="eta", guidance=guidance)
    return host.sample(model, sampler, sigmas, host.latent(1, 3, SIZE, SIZE))[0]


def residual(measurement, samples: torch.Tensor) -> float:
    return measurement.residual_rms((samples + 1) / 2).item()


@pytest.mark.parametrize("node_id", NODES)
def test_defaults_bring_the_picture_to_the_measurement(host, gaussian, measurement, sigmas, node_id):
    unguided = residual(measurement, sampled(host, gaussian, sigmas))
    guided = residual(measurement, sampled(host, gaussian, sigmas, guides(host, node_id, measurement)))
    assert guided < 0.5 * unguided


@pytest.mark.parametrize("node_id", NODES)
def test_works_in_the_hosts_samplers_or_says_where_it_does(host, gaussian, measurement, sigmas, node_id):
    guidance = guides(host, node_id, measurement)
    if node_id in OWNERS:
        with pytest.raises(Refusal, match="Guided DDIM Sampler"):
            host.call("PosteriorApplyGuidance", model=gaussian, guidance=guidance)
        return
    model = host.call("PosteriorApplyGuidance", model=gaussian, guidance=guidance)
    plain, guided = (host.sample(m, "euler", sigmas, host.latent(1, 3, SIZE, SIZE))[0] for m in (gaussian, model))
    assert residual(measurement, guided) < 0.7 * residual(measurement, plain)


def test_timing_of_strength_zero_is_no_guidance(host, gaussian, measurement, sigmas):
    guidance = guides(host, "PosteriorMCG", measurement, guidance=guides(host, "PosteriorDDNM", measurement))
    timed = host.call(
        "PosteriorGuidanceTiming", guidance=guidance, strength=0.0, start=0.0, end=1.0, every=1, schedule="constant"
    )
    assert len(timed) == 2 and [guide.block.label for guide in timed] == ["DDNM", "MCG"]
    assert torch.equal(sampled(host, gaussian, sigmas), sampled(host, gaussian, sigmas, timed))


def test_auto_says_what_it_picked(host, measurement):
    picked, report = host.call("PosteriorAutoGuidance", measurement=measurement, steps=20)
    assert picked[0].block.label in report and "because" in report


def test_timing_keeps_the_one_that_a_block_came_with(host):
    """Case D6: DPS rises by itself where Auto picks it for damage that is not linear."""
    image = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    measured = host.call("PosteriorSimulate", image=image, operator=PhaseRetrieval(), sigma_y=0.01, seed=0)
    picked, _ = host.call("PosteriorAutoGuidance", measurement=measured, steps=20)
    (timed,) = host.call("PosteriorGuidanceTiming", guidance=picked, strength=0.5)
    assert [timed.block.timing.weight(p, 0) for p in (0.0, 0.5, 0.75)] == [0.0, 0.25, 0.375]


def test_needs_are_refused_before_sampling(host):
    measured = host.call("PosteriorObserve", image=torch.rand(1, 16, 16, 3), operator=JPEG(20), sigma_y=0.0)
    for node_id in ("PosteriorDDNM", "PosteriorDDRM", "PosteriorMomentMatching", "PosteriorDDS"):
        with pytest.raises(Refusal, match="needs"):
            guides(host, node_id, measured)
    assert guides(host, "PosteriorPiGDM", measured)  # a JPEG has a generalised inverse
    with pytest.raises(Refusal, match="before it starts"):
        host.call(
            "PosteriorGuidanceTiming", guidance=(), strength=1.0, start=0.8, end=0.2, every=1, schedule="constant"
        )


def test_checkpoints_survive_the_backward_passes_of_moment_matching(host):
    """Its solver goes back through one forward pass several times."""
    from posterior.host.autograd.checkpointed import checkpointed_blocks

    unit, x = torch.nn.Tanh(), torch.randn(3, requires_grad=True)
    with checkpointed_blocks([unit], []):
        y = unit(x)
    passes = [torch.autograd.grad(y, x, torch.ones(3), retain_graph=True)[0] for _ in range(3)]
    for gradient in passes:
        torch.testing.assert_close(gradient, 1 - torch.tanh(x) ** 2)
