"""Operator and measurement nodes on the real server: what they give, and what they refuse."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from posterior.tools.server import CLONE, PromptError, Server

Inputs = dict[str, Any]


def prompt(**nodes: tuple[str, Inputs]) -> dict[str, Any]:
    """An API prompt; a link is written "node" (its first output) or "node.1"."""

    def value(given: Any) -> Any:
        name, _, slot = given.partition(".") if isinstance(given, str) else (None, "", "")
        return [name, int(slot or 0)] if name in nodes else given

    return {
        name: {"class_type": kind, "inputs": {key: value(given) for key, given in inputs.items()}}
        for name, (kind, inputs) in nodes.items()
    }


def photo(size: int = 64) -> tuple[str, Inputs]:
    return "PosteriorExamplePhoto", {"photo": "chelsea", "damage": "text and scratches", "size": size}


def simulate(operator: str, sigma: float = 0.05, image: str = "photo", **more: Any) -> tuple[str, Inputs]:
    return "PosteriorSimulate", {"image": image, "operator": operator, "sigma_y": sigma, "seed": 1, **more}


def observe(image: str, sigma: float = 0.05, **more: Any) -> tuple[str, Inputs]:
    return "PosteriorObserve", {"image": image, "operator": "operator", "sigma_y": sigma, **more}


def fit(measurement: str, image: str = "photo") -> tuple[str, Inputs]:
    return "PosteriorMeasurementFit", {"image": image, "measurement": measurement}


def preview(measurement: str) -> tuple[str, Inputs]:
    return "PosteriorPreviewMeasurement", {"measurement": measurement}


def shown(image: str) -> tuple[str, Inputs]:
    return "PreviewImage", {"images": image}


def back(measurement: str, kind: str = "back-projection") -> tuple[str, Inputs]:
    return "PosteriorBackProjection", {"measurement": measurement, "kind": kind}


def fit_of(outputs: dict[str, Any], node: str = "fit") -> float:
    return float(re.match(r"fit ([\d.]+)", outputs[node]["text"][0])[1])


def size_of(server: Server, outputs: dict[str, Any], node: str) -> tuple[int, int]:
    return Image.open(io.BytesIO(server.view(outputs[node]["images"][0]))).size


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


BOUNDARY = {"boundary": "reflect"}
#: node, its inputs, and the size of its measurement's picture for a 64 x 64 photo
OPERATORS: list[tuple[str, Inputs, tuple[int, int]]] = [
    ("PosteriorIdentity", {}, (64, 64)),
    ("PosteriorInpainting", {"mask": "photo.1"}, (64, 64)),
    ("PosteriorRandomPixels", {"fraction": 0.7, "seed": 2}, (64, 64)),
    ("PosteriorOutpainting", {"left": 8, "top": 0, "right": 16, "bottom": 4}, (40, 60)),
    ("PosteriorMosaic", {"pattern": "GBRG"}, (64, 64)),
    ("PosteriorGaussianBlur", {"sigma": 1.5}, (64, 64)),
    ("PosteriorMotionBlur", {"length": 9, "angle": 30, **BOUNDARY}, (64, 64)),
    ("PosteriorCameraShake", {"size": 5, "seed": 3, "boundary": "valid"}, (54, 54)),
    ("PosteriorDefocus", {"radius": 2.5, "boundary": "circular"}, (64, 64)),
    ("PosteriorKernelBlur", {"kernel": "kernel", **BOUNDARY}, (64, 64)),
    ("PosteriorVaryingBlur", {"kernels": "kernels", "columns": 2}, (64, 64)),
    ("PosteriorSuperResolution", {"factor": 4, "kernel": "bicubic"}, (16, 16)),
    ("PosteriorSuperResolution", {"factor": 2, "kernel": "box"}, (32, 32)),
    ("PosteriorUpscaleTo", {"image": "small", "width": 64, "height": 64, "kernel": "lanczos"}, (20, 24)),
    ("PosteriorGrayscale", {}, (64, 64)),
    ("PosteriorOverexposure", {"gain": 2.0, "pivot": 0.0}, (64, 64)),
    ("PosteriorGamma", {"gamma": 2.2}, (64, 64)),
    ("PosteriorScale", {"factor": 0.5}, (64, 64)),
    ("PosteriorLevels", {"gain": 0.5, "offset": 0.3, "red": 1.1}, (64, 64)),
    ("PosteriorFewerColours", {"levels": 4, "dither": "ordered", "seed": 0}, (64, 64)),
    ("PosteriorPalette", {"image": "kernel"}, (64, 64)),
    ("PosteriorJPEG", {"quality": 20, "subsampling": "4:2:0"}, (64, 64)),
    ("PosteriorSensing", {"transform": "fourier", "ratio": 0.3, "pattern": "variable density", "seed": 0}, (64, 64)),
    ("PosteriorSinglePixelCamera", {"ratio": 0.2}, (64, 64)),
    ("PosteriorBlockSensing", {"ratio": 0.25, "block": 16, "seed": 0}, (16, 64)),
    ("PosteriorPhaseRetrieval", {"oversampling": 2.0}, (128, 128)),
    ("PosteriorCodedDiffraction", {"masks": 2, "seed": 0}, (128, 64)),
    ("PosteriorCompose", {"first": "blur", "second": "jpeg"}, (64, 64)),
]
EXTRAS: dict[str, tuple[str, Inputs]] = {
    "kernel": ("EmptyImage", {"width": 5, "height": 3, "batch_size": 1, "color": 0xFFFFFF}),
    "kernels": ("EmptyImage", {"width": 3, "height": 3, "batch_size": 4, "color": 0x808080}),
    "small": ("EmptyImage", {"width": 20, "height": 24, "batch_size": 1, "color": 0}),
    "blur": ("PosteriorGaussianBlur", {"sigma": 1.0}),
    "jpeg": ("PosteriorJPEG", {"quality": 50, "subsampling": "4:4:4"}),
}


@pytest.mark.parametrize(("node", "inputs", "size"), OPERATORS, ids=[f"{n} {i}" for n, i, _ in OPERATORS])
def test_operator_nodes(server: Server, node: str, inputs: Inputs, size: tuple[int, int]) -> None:
    """The clean photo explains its own measurement: residual RMS / sigma_y is 1 up to the draw."""
    extras = {name: EXTRAS[name] for name in EXTRAS if name in inputs.values()}
    made = {"operator": (node, inputs), "m": simulate("operator")}
    outputs = server.run(prompt(photo=photo(), **extras, **made, fit=fit("m"), view=preview("m")))
    assert fit_of(outputs) == pytest.approx(1, abs=0.1)
    assert size_of(server, outputs, "view") == size


def test_a_wanted_side_of_zero_keeps_the_shape(server: Server) -> None:
    """A10: and a stretched picture is not made without a word."""
    for (width, height), size, words in (
        ((64, 0), (64, 77), ""), ((0, 77), (64, 77), ""), ((64, 64), (64, 64), "stretches .* 1\\.20 .*\\(64 x 77\\)"),
    ):  # fmt: skip
        outputs = server.run(
            prompt(
                small=EXTRAS["small"],
                operator=("PosteriorUpscaleTo", {"image": "small", "width": width, "height": height, "kernel": "box"}),
                m=observe("small"),
                back=back("m"),
                view=shown("back"),
            )
        )
        assert size_of(server, outputs, "view") == size
        said = outputs.get("operator", {}).get("text", [""])[0]
        assert bool(said) == bool(words) and re.search(words, said)


def test_a_camera_s_jpeg_is_read_from_its_file(server: Server) -> None:
    """A11: own tables, 4:2:2 and turned by EXIF: what the file says makes its picture of the clean one."""
    clean = np.array(Image.open(CLONE / "photos" / "chelsea.jpg").convert("RGB").resize((120, 88)))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    tables = [[3 + 2 * (i % 8) + 3 * (i // 8) for i in range(64)], [9 + i for i in range(64)]]
    Image.fromarray(clean).save(buffer, "JPEG", qtables=tables, subsampling="4:2:2", exif=exif)
    name = server.upload(buffer.getvalue(), "camera.jpg")
    turned = server.upload(png(np.rot90(clean, -1)))
    nodes = {
        "damaged": ("LoadImage", {"image": name}),
        "clean": ("LoadImage", {"image": turned}),
        "jpeg": ("PosteriorReadJPEG", {"file": name}),
        "m": observe("damaged", 0.0),
        "fit": fit("m", "clean"),
    }
    read, usual = (
        server.run(prompt(**nodes, operator=("PosteriorJPEG", {"quality": 60, "subsampling": "4:2:0", **more})))
        for more in ({"file": "jpeg"}, {})
    )
    assert "4:2:2, turned by 90 degrees" in read["jpeg"]["text"][0]
    right, wrong = (float(re.search(r"residual RMS ([\d.]+)", each["fit"]["text"][0])[1]) for each in (read, usual))
    assert right < 1.5 / 255 < 4 / 255 < wrong
    buffer = io.BytesIO()
    Image.fromarray(clean).save(buffer, "JPEG", keep_rgb=True)
    for content, fault in (
        (png(clean), "is a PNG file; choose"),
        (buffer.getvalue(), "holds red, green and blue; only"),
    ):
        other = prompt(jpeg=("PosteriorReadJPEG", {"file": server.upload(content, "no.jpg")}))
        other["view"] = {"class_type": "PreviewAny", "inputs": {"source": ["jpeg", 1]}}
        with pytest.raises(PromptError, match=f"no.jpg {fault}"):
            server.run(other)


def test_every_operator_node_is_tested(server: Server) -> None:
    operators = {n for n, info in server.object_info().items() if info["category"] == "posterior/operators"}
    assert operators == {node for node, _, _ in OPERATORS}


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


def mask(value: float, size: int = 64) -> tuple[str, Inputs]:
    return "SolidMask", {"value": value, "width": size, "height": size}


def batch(image: str, amount: int) -> tuple[str, Inputs]:
    return "RepeatImageBatch", {"image": image, "amount": amount}


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
                     "operator": ("PosteriorKernelBlur", {"kernel": "kernel", **BOUNDARY}), "m": observe("photo")},
     "The kernel picture is 4 x 3; give it odd sides"),
    ("black kernel", {"kernel": ("EmptyImage", {"width": 3, "height": 3, "batch_size": 1, "color": 0}),
                      "operator": ("PosteriorKernelBlur", {"kernel": "kernel", **BOUNDARY}), "m": observe("photo")},
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
