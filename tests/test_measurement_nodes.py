"""Measurement nodes on the real server: what they give, and what they refuse."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from server_prompts import (
    EXTRAS,
    Inputs,
    back,
    batch,
    fit,
    fit_of,
    mask,
    observe,
    photo,
    png,
    preview,
    prompt,
    shown,
    simulate,
    size_of,
)

from posterior.tools.server import PromptError, Server


def test_observed_pictures(server: Server) -> None:
    """Small and wide pictures as artists bring them: the solved size follows from the operator."""
    picture = (np.random.default_rng(0).random((24, 20, 3)) * 255).astype(np.uint8)
    name = server.upload(png(picture))
    outputs = server.run(
        prompt(
            image=("LoadImage", {"image": name}),
            double=("PosteriorSuperResolution", {"factor": 2, "kernel": "box"}),
            a=("PosteriorObserve", {"image": "image", "operator": "double", "sigma_y": 0.0}),
            a_back=back("a"), a_shown=shown("a_back"),
            target=("PosteriorUpscaleTo", {"image": "image", "width": 33, "height": 40, "kernel": "bicubic"}),
            b=("PosteriorObserve", {"image": "image", "operator": "target", "sigma_y": 0.02}),
            b_back=back("b", "smooth"), b_shown=shown("b_back"),
            wider=("PosteriorOutpainting", {"left": 3, "top": 0, "right": 5, "bottom": 7}),
            c=("PosteriorObserve", {"image": "image", "operator": "wider", "sigma_y": 0.02}),
            c_back=back("c"), c_shown=shown("c_back"),
            grey=("PosteriorGrayscale", {}),
            d=("PosteriorObserve", {"image": "image", "operator": "grey", "sigma_y": 0.02}),
            d_back=back("d"), d_shown=shown("d_back"),
        )
    )  # fmt: skip
    sizes = [size_of(server, outputs, f"{each}_shown") for each in "abcd"]
    assert sizes == [(40, 48), (33, 40), (28, 31), (20, 24)]
    doubled = np.asarray(Image.open(io.BytesIO(server.view(outputs["a_shown"]["images"][0]))))
    assert np.array_equal(doubled, picture.repeat(2, 0).repeat(2, 1))


def test_noise_of_all_kinds(server: Server) -> None:
    """Photon noise and a noise map are simulated as they are scored, and measurements combine."""
    identity = ("PosteriorIdentity", {})
    outputs = server.run(
        prompt(
            photo=photo(), operator=identity, blur=("PosteriorGaussianBlur", {"sigma": 1.0}),
            photons=simulate("operator", 0.0, gain=0.01), fit_photons=fit("photons"),
            both=simulate("operator", 0.05, gain=0.01), fit_both=fit("both"),
            mapped=simulate("operator", 0.02, noise_map="photo.1"), fit_mapped=fit("mapped"),
            soft=("PosteriorInpainting", {"mask": "blurred", "soft_edges": "uncertain"}),
            as_image=("MaskToImage", {"mask": "photo.1"}),
            smooth=("ImageBlur", {"image": "as_image", "blur_radius": 2, "sigma": 1.0}),
            blurred=("ImageToMask", {"image": "smooth", "channel": "red"}),
            edges=simulate("soft", 0.02), fit_edges=fit("edges"),
            shot=simulate("blur", 0.01),
            joint=("PosteriorCombine", {"first": "shot", "second": "both"}), fit_joint=fit("joint"),
            view=preview("joint"),
        )
    )  # fmt: skip
    for name in ("photons", "both", "mapped", "edges", "joint"):
        assert fit_of(outputs, f"fit_{name}") == pytest.approx(1, abs=0.05), name
    assert size_of(server, outputs, "view") == (128, 64)


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_estimated_noise_level(server: Server, sigma: float) -> None:
    outputs = server.run(
        prompt(
            photo=photo(256), operator=("PosteriorIdentity", {}), m=simulate("operator", sigma), image=back("m"),
            estimate=("PosteriorEstimateNoise", {"image": "image"}),
        )
    )  # fmt: skip
    found = float(re.match(r"noise level ([\d.]+)", outputs["estimate"]["text"][0])[1])
    assert found == pytest.approx(sigma, rel=0.15)


def test_blotches_go_from_simulate_to_observe(server: Server) -> None:
    outputs = server.run(
        prompt(
            photo=("PosteriorExamplePhoto", {"photo": "coffee", "damage": "scratches", "size": 192}),
            operator=("PosteriorIdentity", {}), m=simulate("operator", 0.08, blotch=1.0),
            fit_m=fit("m"), image=back("m"), estimate=("PosteriorEstimateNoise", {"image": "image"}),
            found=("PosteriorObserve", {
                "image": "image", "operator": "operator", "sigma_y": 0.02, "noise": "estimated"}),
            fit_found=fit("found"),
            told=("PosteriorObserve", {
                "image": "image", "operator": "operator", "sigma_y": "estimate", "blotch": "estimate.4"}),
            fit_told=fit("told"),
        )
    )  # fmt: skip
    assert fit_of(outputs, "fit_m") == pytest.approx(1, abs=0.05)
    level, blotch = re.search(r"noise level ([\d.]+).*size is (\d[.]\d)", outputs["estimate"]["text"][0]).groups()
    assert float(level) == pytest.approx(0.08, rel=0.2) and float(blotch) == pytest.approx(1, rel=0.2)
    assert "blotches" in outputs["found"]["text"][0]
    for name in ("fit_found", "fit_told"):  # cut at black and white, in 8 bits, and the spectrum is known within bounds
        assert 0.5 < fit_of(outputs, name) < 2, name


KERNEL = ("PosteriorKernelBlur", {"kernel": "kernel", "boundary": "reflect"})
INPAINT = ("PosteriorInpainting", {"mask": "mask"})
#: a name, the nodes, and what the refusal says
REFUSALS: list[tuple[str, dict[str, tuple[str, Inputs]], str]] = [
    ("mask of another size", {"joined": ("MaskComposite", {
        "destination": "zero", "source": "one", "x": 0, "y": 0, "operation": "add"}), "zero": mask(0, 32),
        "one": mask(1, 8), "operator": ("PosteriorInpainting", {"mask": "joined"}), "m": observe("photo")},
     "The mask is 32 x 32 pixels and the picture is 64 x 64; make both the same size."),
    ("empty mask", {"mask": mask(0), "operator": INPAINT, "m": observe("photo")}, "paint over what should be repaired"),
    ("full mask", {"mask": mask(1), "operator": INPAINT, "m": observe("photo")}, "leave some pixels unmasked"),
    ("kernel larger than the picture", {"operator": ("PosteriorGaussianBlur", {"sigma": 20.0}), "m": observe("photo")},
     "The blur kernel (161 x 161) is larger than the picture (64 x 64); use a smaller blur."),
    ("blotches of photons", {"operator": ("PosteriorIdentity", {}), "m": ("PosteriorObserve", {
        "image": "photo", "operator": "operator", "sigma_y": 0.02, "gain": 0.01, "blotch": 1.0})},
     "set either the gain or the size of the blotches to 0"),
    ("even kernel", {"kernel": ("EmptyImage", {"width": 4, "height": 3, "batch_size": 1, "color": 255}),
                     "operator": KERNEL, "m": observe("photo")},
     "The kernel picture is 4 x 3; give it odd sides"),
    ("black kernel", {"kernel": ("EmptyImage", {"width": 3, "height": 3, "batch_size": 1, "color": 0}),
                      "operator": KERNEL, "m": observe("photo")},
     "paint the path of the light in white"),
    ("kernels that fill no grid", {"kernels": EXTRAS["kernels"], "m": observe("photo"),
                                   "operator": ("PosteriorVaryingBlur", {"kernels": "kernels", "columns": 3})},
     "4 kernels do not fill rows of 3"),
    ("factor that does not divide", {"operator": ("PosteriorSuperResolution", {"factor": 5, "kernel": "bicubic"}),
                                     "m": simulate("operator")}, "choose a factor that divides"),
    ("target below the picture", {"operator": ("PosteriorUpscaleTo", {
        "image": "photo", "width": 32, "height": 64, "kernel": "bicubic"}), "m": observe("photo")},
     "give a size that is at least as large"),
    ("another small picture", {"operator": ("PosteriorUpscaleTo", {
        "image": "photo", "width": 96, "height": 96, "kernel": "bicubic"}), "large": photo(96), "m": observe("large")},
     "connect the same picture to both"),
    ("too many colours", {"operator": ("PosteriorPalette", {"image": "photo"}), "m": observe("photo")},
     "colours and a palette at most 256"),
    ("alpha channel", {"mask": mask(1), "rgba": ("JoinImageWithAlpha", {"image": "photo", "alpha": "mask"}),
                       "operator": ("PosteriorIdentity", {}), "m": observe("rgba")},
     "The picture has 4 channels; give red, green and blue only"),
    ("batch mismatch", {"as_image": ("MaskToImage", {"mask": "photo.1"}), "two": batch("as_image", 2),
                        "mask": ("ImageToMask", {"image": "two", "channel": "red"}), "three": batch("photo", 3),
                        "operator": INPAINT, "m": observe("three")},
     "There are 2 masks and 3 pictures; give one for all, or one for each."),
    ("hadamard side", {"photo": photo(72), "operator": ("PosteriorSinglePixelCamera", {"ratio": 0.1}),
                       "m": simulate("operator")}, "sides that are powers of two"),
    ("block side", {"operator": ("PosteriorBlockSensing", {"ratio": 0.1, "block": 24, "seed": 0}),
                    "m": simulate("operator")}, "choose a block size that divides both sides"),
    ("a picture is no sensing", {"operator": ("PosteriorPhaseRetrieval", {"oversampling": 2.0}), "m": observe("photo")},
     "make the measurement with Simulate instead"),
    ("no border", {"operator": ("PosteriorOutpainting", {"left": 0, "top": 0, "right": 0, "bottom": 0}),
                   "m": observe("photo")}, "give at least one side a width above 0"),
    ("noise map of another size", {"mask": mask(0.1, 32), "operator": ("PosteriorIdentity", {}),
                                   "m": observe("photo", noise_map="mask")},
     "The noise map is 32 x 32 and the measurement 64 x 64; make both the same size."),
    ("picture of another size", {"operator": ("PosteriorIdentity", {}), "m": observe("photo"), "large": photo(96),
                                 "fit": fit("m", "large")}, "the measurement speaks of 64 x 64"),
    ("measurements of two pictures", {"operator": ("PosteriorIdentity", {}), "m": observe("photo"), "large": photo(96),
                                      "n": observe("large"), "fit": fit("both"),
                                      "both": ("PosteriorCombine", {"first": "m", "second": "n"})},
     "both must be of the same picture"),
    ("no inverse", {"operator": ("PosteriorPhaseRetrieval", {"oversampling": 2.0}), "m": simulate("operator"),
                    "back": back("m"), "shown": shown("back")}, "Phase retrieval has no inverse; choose DPS"),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "message"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_refusals(server: Server, nodes: dict[str, tuple[str, Inputs]], message: str) -> None:
    if "shown" not in nodes and "fit" not in nodes:
        nodes = {**nodes, "view": preview("m")}
    with pytest.raises(PromptError) as error:
        server.run(prompt(**{"photo": photo(), **nodes}))
    assert message in str(error.value)
    assert "\n" not in str(error.value).strip()


def test_nan_is_refused(server: Server) -> None:
    latent = torch.zeros(1, 3, 64, 64)
    latent[0, 1, 5, 6] = torch.nan
    version = torch.tensor([])
    save_file({"latent_tensor": latent, "latent_format_version_0": version}, server.input / "nan.latent")
    with pytest.raises(PromptError, match="The picture contains NaN or infinite values; check the node that makes it"):
        server.run(
            prompt(
                latent=("LoadLatent", {"latent": "nan.latent"}), vae=("VAELoader", {"vae_name": "pixel_space"}),
                image=("VAEDecode", {"samples": "latent", "vae": "vae"}), operator=("PosteriorIdentity", {}),
                m=observe("image"), view=preview("m"),
            )
        )  # fmt: skip
