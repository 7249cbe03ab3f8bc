"""Everything a guided step does, on a device that is not there (`tools.device`): nothing mixes devices, nothing waits
where it need not, nothing asks for floats or complex numbers that a device lacks (cases B7, D5)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from guidance_rows import ROWS as METHODS
from guidance_rows import one_thread  # noqa: F401
from host_vaes import autoencoder, load_taesd, narrow_kl, vae_of
from operator_rows import LINEAR, NONLINEAR, Row, hole

from posterior.algebra import devices, transforms
from posterior.algebra.krylov import LOOK, conjugate_gradient
from posterior.algebra.refusal import Refusal
from posterior.algebra.streams import Streams
from posterior.benchmarks.operators import OURS, guided_step
from posterior.diffusion.level import Level
from posterior.diffusion.run import Run
from posterior.diffusion.schedule import AXES
from posterior.diffusion.state import State, Step
from posterior.guidance.diffpir import DiffPIR
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise, PoissonNoise
from posterior.operators import base, kernels
from posterior.operators.convolution import CircularConvolution, convolution
from posterior.operators.identity import Identity
from posterior.operators.inpainting import Inpainting
from posterior.operators.phase_retrieval import CodedDiffraction, PhaseRetrieval
from posterior.operators.spectral import SpectralOperator
from posterior.samplers.annealed import AnnealedRestoration
from posterior.samplers.cm4ir import CM4IR
from posterior.samplers.daps import DAPS
from posterior.samplers.ddim import GuidedDDIM
from posterior.samplers.dpm import DPMSolver
from posterior.samplers.heun import Heun
from posterior.samplers.langevin import AnnealedLangevin, PredictorCorrector
from posterior.samplers.maruyama import EulerMaruyama
from posterior.samplers.pmc import PMC
from posterior.samplers.red_diff import REDDiff
from posterior.samplers.split_gibbs import SplitGibbs
from posterior.tools.device import FakeDevice

ids = {"ids": str}


@pytest.fixture(autouse=True)
def few_iterations(monkeypatch):
    """Numbers on a fake device never converge."""
    monkeypatch.setattr(base, "conjugate_gradient", partial(conjugate_gradient, iterations=LOOK, warn=False))


def half(v: torch.Tensor, last: bool = False) -> torch.Tensor:
    return 0.5 * v


class Halved:
    """A prior with a Jacobian that needs no backward pass."""

    def __call__(self, x, t):
        return 0.5 * x

    def linearise(self, x, t):
        return 0.5 * x, half


@pytest.mark.parametrize("row", LINEAR, **ids)
def test_linear_operators(row: Row):
    """The second use, when caches are full: closed forms never wait, conjugate gradients once in eight iterations."""
    operator = row.make()
    with FakeDevice() as device:
        moved = operator.to(device.device, torch.float32)
        x = torch.rand(operator.batch, *row.image, device=device.device)
        y = moved.forward(x)
        works = {
            "A": lambda: moved.forward(x), "A^T": lambda: moved.adjoint(y), "A^+": lambda: moved.pinv(y),
            "prox": lambda: moved.prox(x, y, 0.1), "solve": lambda: moved.solve(y, 0.1),
        }  # fmt: skip
        for name, work in works.items():
            work()
            device.clear()
            assert work().device == device.device, name
            most = 0 if row.exact or name in ("A", "A^T") else 1
            assert device.waits.total() <= most, (name, device.waits)


@pytest.mark.parametrize("row", NONLINEAR, **ids)
def test_operators_that_are_not_linear(row: Row):
    operator = row.make()
    with FakeDevice() as device:
        moved = operator.to(device.device, torch.float32)
        x = torch.rand(1, *row.image, device=device.device)
        moved.forward(x)
        device.clear()
        assert moved.forward(x).device == device.device
        assert not device.waits, device.waits


def measurements() -> dict[str, Measurement]:
    """Clean, even and uneven Gaussian noise, photons, over a mask and a blur."""
    noises = {"clean": 0.0, "even": 0.1}
    found = {}
    for name, operator in {
        "mask": Inpainting(hole(1, 1, 8, 8)), "blur": CircularConvolution(kernels.gaussian(0.6))
    }.items():  # fmt: skip
        y = torch.rand(1, 3, 8, 8)
        for noise, sigma in noises.items():
            found[f"{name}, {noise}"] = Measurement(operator, y, GaussianNoise(sigma))
        found[f"{name}, uneven"] = Measurement(operator, y, GaussianNoise(torch.rand(1, 1, 8, 8) + 0.1))
        found[f"{name}, photons"] = Measurement(operator, y, PoissonNoise(0.01, 0.1))
    return found


#: measurement of the test, and whether it is clean
KINDS = ["mask, clean", "blur, clean", "mask, even", "blur, even", "mask, uneven", "blur, uneven", "mask, photons"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", METHODS, ids=lambda row: row.name)
def test_guidance(row, kind: str):
    """Estimate and transition; blocks are made where their measurement is, on the CPU, and moved as a run does."""
    try:
        block = row.make(measurements()[kind])
    except Refusal:
        pytest.skip("not for this noise")
    if hasattr(block, "iterations"):
        block = replace(block, iterations=LOOK)
    t, s = Level(1.0, 0.8), Level(1.0, 0.5)
    with FakeDevice() as device:
        moved = block.to(device.device, torch.float32)
        x = torch.rand(2, 3, 8, 8, device=device.device)

        state = State(x, t, 0.9 * x, half, Halved(), s)
        for _ in range(2):
            device.clear()
            estimate = moved.estimate(state, state.x0)
            eps, z = x - estimate.x0, torch.randn_like(x)
            step = Step(t, s, estimate.x0, eps, 0.1, z, torch.randn_like)
            after = moved.transition(x, step)
        assert estimate.x0.device == after.device == device.device
        solves = hasattr(block, "iterations") or not isinstance(block.measurement.operator, SpectralOperator)
        assert device.waits.total() <= solves, device.waits


@pytest.mark.parametrize("noise", [GaussianNoise(0.1), GaussianNoise(torch.ones(1, 1, 8, 8)), PoissonNoise(0.01, 0.1)])
def test_noise_models(noise):
    with FakeDevice() as device:
        moved = noise.to(device.device, torch.float32)
        y = torch.rand(2, 3, 8, 8, device=device.device)
        device.clear()
        found = [moved.log_likelihood(0.1 * y, y), moved.score(0.1 * y, y)]
        assert all(each.device == device.device for each in found)
        assert not device.waits, device.waits


SAMPLERS = [
    GuidedDDIM(1.0), AnnealedRestoration(), DPMSolver(), DPMSolver(True), Heun(), AnnealedLangevin(2),
    PredictorCorrector(), EulerMaruyama(AXES["VP"]), SplitGibbs(2, 1), DAPS(2),
    PMC("PnP", 2), CM4IR(), REDDiff(),
]  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_samplers(sampler):
    levels = [Level(1.0, sigma) for sigma in (2.0, 1.0, 0.5, 0.0)]
    seen = measurements()["blur, even"]
    with FakeDevice() as device:
        x = torch.rand(2, 3, 8, 8, device=device.device)
        block = DiffPIR(seen).to(device.device, torch.float32)
        run = Run(Halved(), levels, (block,), Streams(0, "sampling", 2))
        device.clear()
        assert sampler(run, x).device == device.device
        assert not device.waits, device.waits


#: those without a closed form
ITERATIVE = ("motion blur, reflect", "motion blur, valid", "varying blur, 9 kernels", "masked blur")
#: those that miss the target of 60 kernels: nine roundings, and a backward pass through what is between them
MORE = {"jpeg 4:2:0": 84}


@pytest.mark.parametrize("name", OURS)
def test_kernels_and_waits_of_a_guided_step(name: str):
    """The targets at 512 pixels: no wait and 60 kernels for a closed form, a wait in eight iterations else."""
    counted = guided_step(OURS[name](512))
    if name in ITERATIVE:
        assert counted.waits <= 16 // LOOK + 1  # for the warning
    else:
        assert counted.waits == 0
        assert counted.kernels <= MORE.get(name, 60)


@pytest.mark.parametrize("name", ["inpainting", "outpainting", "mosaic"])
def test_kernels_of_the_smooth_correction(name: str):
    counted = guided_step(OURS[name](512), smooth=True)
    assert counted.waits == 0
    assert counted.kernels <= 400


@pytest.fixture
def no_float64(monkeypatch):
    """As on Apple's devices and Intel's Arc: asking for float64 raises."""

    def refuse(*args, **kwargs):
        raise TypeError("this device has no float64")

    monkeypatch.setattr(torch.Tensor, "double", refuse)
    monkeypatch.setattr(devices, "widest_float", lambda device: torch.float32)


def test_fits_without_float64(no_float64):
    measurement = Measurement(Identity(), torch.rand(2, 3, 8, 8), GaussianNoise(0.1))
    x = measurement.y + 0.1
    assert measurement.fit(x).tolist() == pytest.approx([1.0, 1.0], rel=1e-4)  # float32 over 192 numbers
    assert measurement.residual_rms(x).dtype == torch.float32


@pytest.fixture
def no_complex(monkeypatch):
    """As on DirectML."""
    for module in (devices, transforms):
        monkeypatch.setattr(module, "has_complex", lambda device: False)


@pytest.mark.parametrize("name", transforms.TRANSFORMS)
@pytest.mark.parametrize("sides", [(8, 16), (32, 2)])
def test_transforms_without_complex_numbers(name: str, sides: tuple[int, int], monkeypatch):
    x = torch.rand(2, 3, *sides, dtype=torch.float64)
    expected = transforms.TRANSFORMS[name].forward(x)
    for module in (devices, transforms):
        monkeypatch.setattr(module, "has_complex", lambda device: False)
    got = transforms.TRANSFORMS[name].forward(x)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(transforms.TRANSFORMS[name].inverse(got), x, rtol=1e-12, atol=1e-12)


def test_blurs_without_complex_numbers(no_complex):
    x = torch.rand(1, 3, 16, 16)
    convolution(kernels.gaussian(1.0), "reflect").forward(x)
    with pytest.raises(Refusal, match="complex numbers"):
        convolution(kernels.motion(5, 30), "reflect").forward(x)


@pytest.mark.parametrize("operator", [PhaseRetrieval(), CodedDiffraction()])
def test_phases_without_complex_numbers(operator, no_complex):
    with pytest.raises(Refusal, match=r"complex numbers, which this device \(DirectML\) does not know; .* --cpu\.$"):
        operator.forward(torch.rand(1, 3, 8, 8))


def test_a_vae_is_judged_without_a_wait(host, tmp_path):
    """Case B7: at each step's report the device is waited for anyway."""
    codec = autoencoder(vae_of(load_taesd(tmp_path / "taesd.safetensors"), narrow_kl()))
    codec.decode(torch.rand(1, 4, 8, 8))
    assert codec.sound
    codec.decode(torch.full((1, 4, 8, 8), torch.nan))
    assert codec.sound  # that was not the VAE
    for weight in codec._vae.first_stage_model.parameters():
        weight.data.fill_(torch.nan)
    codec.decode(torch.rand(1, 4, 8, 8))
    codec.decode(torch.full((1, 4, 8, 8), torch.nan))
    assert not codec.sound


def test_a_vae_on_the_processor(host, tmp_path):
    """--cpu-vae (case B7): latents on the card, the VAE beside it; pictures and latents come back to the card."""
    codec = autoencoder(vae_of(load_taesd(tmp_path / "taesd.safetensors"), narrow_kl()))
    with FakeDevice() as device:
        z = torch.rand(2, 4, 8, 8, device=device.device)
        image = codec.decode(z)
        assert image.device == device.device and image.shape == (2, 3, 64, 64)
        assert codec.encode(image).device == device.device
