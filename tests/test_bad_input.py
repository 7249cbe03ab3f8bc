"""Whatever other nodes may hand over works, or is refused in one sentence that is right; and the server lives on."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from test_host_server import Graph, complete
from test_latent_server import loaders

from posterior.tools.server import PromptError, Server

#: outcome of a prompt that works
WORKS = ""
CHANNELS = r"The picture has \d+ channels; give red, green and blue only"
NO_PICTURE = r"This is no picture but numbers of shape [\d x]+; connect an IMAGE\."
NO_MASK = r"This is no (mask|noise map) but numbers of shape [\d x]+; connect a MASK\."
RANGE = r"The values of the (picture|mask|noise map) go from .* to .*, where black is 0 and white is 1; "
BYTES = RANGE + r"divide it by 255\."
NAN = r"The (picture|mask|noise map) contains NaN or infinite values; check the node that makes it\."

#: nodes that read something off a picture
DIAGNOSES = ("EstimateNoise", "EstimateBlur", "EstimateShake", "FindTrueSize")
IMAGES = {
    "plain": WORKS, "two": WORKS, "three": WORKS, "H W C": WORKS, "grey": WORKS, "half": WORKS, "bfloat16": WORKS,
    "double": WORKS, "strided": WORKS, "a few outside": WORKS,
    "none": NO_PICTURE, "H W": NO_PICTURE, "frames": NO_PICTURE,
    "B H W": CHANNELS, "two channels": CHANNELS, "alpha": CHANNELS,
    "bytes": BYTES, "0..255": BYTES, "exr": RANGE + r"bring it to that range first\.",
    "signed": RANGE + r"bring it to that range first\.", "nan": NAN, "inf": NAN,
    "1 x 1": None, "1 x 32": None, "48 x 32": None,
}  # fmt: skip
MASKS = {
    "plain": WORKS, "two": WORKS, "three": WORKS, "one of two empty": WORKS, "H W": WORKS, "B 1 H W": WORKS,
    "half": WORKS, "double": WORKS, "bool": WORKS, "inverted": WORKS,
    "none": NO_MASK, "B C H W": NO_MASK, "line": NO_MASK,
    "bytes": BYTES, "0..255": BYTES, "nan": NAN,
    "empty": r"The mask is empty, so there is nothing to fill in; paint over what should be repaired\.",
    "full": r"The mask covers the whole picture, so nothing is known; leave some pixels unmasked\.",
    "grey black": r"The mask covers the whole picture, since its darkest value is 0\.0627 .* set the threshold higher",
    "1 x 1": r"The mask (covers the whole picture|is)",
    "48 x 32": r"The mask is 48 x 32 pixels and the picture is 32 x 32",
}  # fmt: skip


def outcomes(server: Server, graphs: Iterable[Graph]) -> list[str]:
    """What became of each prompt: nothing, or the sentence of its refusal. All are queued first."""
    info = server.object_info()
    prompts = [server.submit(complete(info, graph)) for graph in graphs]
    found = []
    for prompt in prompts:
        try:
            server.wait(prompt)
            found.append(WORKS)
        except PromptError as error:
            kind, message = error.details["exception_type"], str(error).partition(": ")[2]
            found.append(message if kind.endswith("Refusal") else f"{kind}: {message}")
    return found


def sentence(text: str) -> bool:
    """Whether a refusal is one sentence that says what to change."""
    return (text[0].isupper() or text[0].isdigit()) and text.endswith(".") and "\n" not in text and ". " not in text


def check(server: Server, cases: dict[str, tuple[Graph, str | None]]) -> None:
    """Each prompt ends as it should; None: it works, or is refused in a sentence of any words."""
    faults = []
    for (name, (_, expected)), found in zip(
        cases.items(), outcomes(server, [g for g, _ in cases.values()]), strict=True
    ):
        right = found == WORKS if expected == WORKS else bool(re.match(expected or ".", found)) and sentence(found)
        if not right and not (expected is None and found == WORKS):
            faults.append(f"{name}: {found or 'works'}")
    assert not faults, "\n".join(faults)
    assert outcomes(server, [observed("plain")]) == [WORKS]


def odd(graph: Graph, kind: str, what: str) -> list:
    return graph.add(f"TestOdd{kind}", what=what)


def observed(image: str, mask: str | None = None, noise_map: str | None = None) -> Graph:
    graph = Graph()
    operator = graph.add("PosteriorIdentity")
    if mask:
        operator = graph.add("PosteriorInpainting", mask=odd(graph, "Mask", mask))
    more = {"noise_map": odd(graph, "Mask", noise_map)} if noise_map else {}
    measurement = graph.add("PosteriorObserve", image=odd(graph, "Image", image), operator=operator, **more)
    graph.add("PosteriorPreviewMeasurement", measurement=measurement)
    return graph


def measurement_of(graph: Graph, image: str = "plain") -> list:
    operator = graph.add("PosteriorInpainting", mask=odd(graph, "Mask", "plain"))
    return graph.add("PosteriorObserve", image=odd(graph, "Image", image), operator=operator)


def used(consumer: str, what: str) -> Graph:
    """A prompt in which a node takes an odd picture."""
    graph = Graph()
    image = odd(graph, "Image", what)
    if consumer == "PosteriorSimulate":
        measurement = graph.add(consumer, image=image, operator=graph.add("PosteriorGaussianBlur", sigma=0.5))
        graph.add("PosteriorPreviewMeasurement", measurement=measurement)
    elif consumer in ("PosteriorMeasurementFit", "PosteriorKeepMeasuredPixels"):
        made = graph.add(consumer, image=image, measurement=measurement_of(graph))
        graph.add("PreviewImage", images=[made[0], 2 if consumer == "PosteriorMeasurementFit" else 0])
    elif consumer.removeprefix("Posterior") in DIAGNOSES:
        graph.add(consumer, image=image)
    else:
        name = {"PosteriorKernelBlur": "kernel", "PosteriorVaryingBlur": "kernels"}.get(consumer, "image")
        operator = graph.add(consumer, **{name: image})
        photo = odd(graph, "Image", "plain")
        measurement = graph.add("PosteriorSimulate", image=photo, operator=operator)
        graph.add("PosteriorPreviewMeasurement", measurement=measurement)
    return graph


def test_pictures(server: Server) -> None:
    """By the nodes that take one: what they share, and for sizes and batches a sentence of their own."""
    cases = {f"Observe {what}": (observed(what), expected) for what, expected in IMAGES.items()}
    for consumer in ("Simulate", "MeasurementFit", "KeepMeasuredPixels"):
        for what, expected in IMAGES.items():
            cases[f"{consumer} {what}"] = (used(f"Posterior{consumer}", what), expected)
    for consumer in (*DIAGNOSES, "Palette", "UpscaleTo", "KernelBlur", "VaryingBlur"):
        for what, expected in IMAGES.items():
            # kernels may have any range, and all of these have sizes and limits of their own
            free = expected == WORKS or consumer.endswith("Blur") and expected and "values of" in expected
            cases[f"{consumer} {what}"] = (used(f"Posterior{consumer}", what), None if free else expected)
    check(server, cases)


def test_masks(server: Server) -> None:
    cases = {f"mask {what}": (observed("plain", mask=what), expected) for what, expected in MASKS.items()}
    for what, expected in MASKS.items():
        level = dict.fromkeys(("empty", "full", "grey black"), WORKS) | {
            "48 x 32": r"The noise map is 48 x 32 and the measurement 32 x 32; make both the same size\."
        }
        level |= dict.fromkeys(("two", "three", "one of two empty", "1 x 1"))
        cases[f"noise map {what}"] = (observed("plain", noise_map=what), level.get(what, expected))
    check(server, cases)


def test_batches_that_do_not_match(server: Server) -> None:
    """Every pair of inputs that may hold several."""
    counts = {"plain": 1, "two": 2, "three": 3}
    cases = {}
    for first, n in counts.items():
        for second, m in counts.items():
            fits = n == m or 1 in (n, m)
            refused = r"There are \d .* and \d pictures; give one for all, or one for each\."
            cases[f"{n} pictures, {m} masks"] = (observed(first, mask=second), WORKS if fits else refused)
            fits = m in (1, n)
            cases[f"{n} pictures, {m} noise maps"] = (observed(first, noise_map=second), WORKS if fits else refused)
            for consumer in ("MeasurementFit", "KeepMeasuredPixels"):
                graph = Graph()
                made = graph.add(
                    f"Posterior{consumer}", image=odd(graph, "Image", first), measurement=measurement_of(graph, second)
                )
                graph.add("PreviewImage", images=[made[0], 2 if consumer == "MeasurementFit" else 0])
                refused = r"There are \d pictures and the measurement has \d; give one, or one for each\."
                cases[f"{consumer} {n}, {m}"] = (graph, WORKS if n == m or 1 in (n, m) else refused)
            graph = Graph()
            both = graph.add(
                "PosteriorCombine", first=measurement_of(graph, first), second=measurement_of(graph, second)
            )
            graph.add("PosteriorPreviewMeasurement", measurement=both)
            refused = r"The measurements hold \d and \d pictures; give the same number to each\."
            cases[f"combined {n}, {m}"] = (graph, WORKS if n == m or 1 in (n, m) else refused)
    check(server, cases)


def gaussian(graph: Graph, what: str = "three") -> list:
    return graph.add("PosteriorGaussianPrior", images=odd(graph, "Image", what))


SAMPLERS = {
    "GuidedDDIM": {}, "AnnealedRestoration": {}, "GuidedODE": {}, "GuidedSDE": {}, "AnnealedLangevin": {},
    "PredictorCorrector": {},
}  # fmt: skip


@pytest.mark.parametrize("sampler", [*SAMPLERS, "ApplyGuidance"])
def test_odd_step_lists(server: Server, sampler: str) -> None:
    cases = {}
    for what in ("plain", "equal", "rising", "nan", "infinite", "negative", "zeros", "one", "empty"):
        graph = Graph()
        measurement = measurement_of(graph)
        guidance = graph.add("PosteriorDiffPIR", measurement=measurement)
        model = gaussian(graph)
        if sampler == "ApplyGuidance":
            model = graph.add("PosteriorApplyGuidance", model=model, guidance=guidance)
            chosen = graph.add("KSamplerSelect", sampler_name="euler")
        else:
            chosen = graph.add(f"Posterior{sampler}", guidance=guidance, **SAMPLERS[sampler])
        latent = graph.add("PosteriorStartingPoint", measurement=measurement)
        none = graph.add("PosteriorUnconditional")
        samples = graph.advanced(model, chosen, odd(graph, "Sigmas", what), latent, none)
        image = graph.add("VAEDecode", samples=samples, vae=graph.add("VAELoader", vae_name="pixel_space"))
        fit = graph.add("PosteriorMeasurementFit", image=image, measurement=measurement)
        graph.add("PreviewImage", images=[fit[0], 2])
        words = dict.fromkeys(
            ("nan", "infinite", "negative"), r"The step list \(sigmas\) holds (nan|inf|-1); make it with"
        )
        words["zeros"] = r"The step list \(sigmas\) holds nothing but 0, so there is no noise to remove"
        words["rising"] = WORKS if sampler == "ApplyGuidance" else r"The step list \(sigmas\) rises; "
        cases[what] = (graph, words.get(what, WORKS))
    check(server, cases)


def test_latents_of_another_number(server: Server) -> None:
    graph = Graph()
    measurement = measurement_of(graph, "three")
    latent = graph.add("PosteriorStartingPoint", measurement=measurement_of(graph, "two"))
    sampler = graph.add("PosteriorGuidedDDIM", guidance=graph.add("PosteriorDDNM", measurement=measurement))
    model, none = gaussian(graph), graph.add("PosteriorUnconditional")
    samples = graph.advanced(model, sampler, odd(graph, "Sigmas", "plain"), latent, none)
    graph.add("SaveLatent", samples=samples, filename_prefix="odd")
    words = r"The measurement holds 3 pictures and the latent 2; give one measurement for all, or one for each\."
    check(server, {"2 and 3": (graph, words)})


def solved(graph: Graph, model: list, **more) -> Graph:
    solution = graph.add("PosteriorSolve", model=model, measurement=measurement_of(graph), steps=2, **more)
    graph.add("PreviewImage", images=solution)
    return graph


def test_vaes_and_prompts(server: Server, host) -> None:
    """B5, B6, E8: no prompt, no VAE or an empty one, one of another model, and one that makes NaN."""
    empty, needed, both = (
        r"The VAE is empty, since its file holds none; connect one from Load VAE\.",
        r"This model needs a prompt", r"With a cfg of 3 this model needs a negative prompt as well",
    )  # fmt: skip
    without = r"This model works on latents, so guidance needs its VAE"
    nan = r"The VAE makes NaN or infinite values; run it at full precision \(--fp32-vae\), or connect another one\."
    cases = {}
    for family in ("sd15", "sdxl", "sd3"):
        graph = Graph()
        model, vae, prompt = loaders(graph, server, family)
        cases[f"{family} without a prompt"] = (solved(graph, model, vae=vae), needed)
        graph = Graph()
        model, vae, prompt = loaders(graph, server, family)
        cases[f"{family} without a negative"] = (solved(graph, model, vae=vae, positive=prompt, cfg=3.0), both)
    graph = Graph()
    model, vae, _ = loaders(graph, server, "sd15")
    measurement, none = measurement_of(graph), graph.add("PosteriorUnconditional")
    model = graph.add(
        "PosteriorApplyGuidance", model=model, guidance=graph.add("PosteriorDPS", measurement=measurement, vae=vae)
    )
    latent = graph.add("PosteriorStartingPoint", measurement=measurement, vae=vae)
    samples = graph.add(
        "KSampler", model=model, positive=none, negative=none, latent_image=latent, steps=2, sampler_name="euler",
        scheduler="normal",
    )  # fmt: skip
    graph.add("SaveLatent", samples=samples, filename_prefix="odd")
    cases["KSampler without a prompt"] = (graph, needed)
    for what, expected in {"None": without, "empty": empty, "NaN": nan}.items():
        graph = Graph()
        model, _, prompt = loaders(graph, server, "sd15")
        vae = odd(graph, "VAE", what)
        cases[f"Solve, VAE {what}"] = (solved(graph, model, vae=vae, positive=prompt), expected)
        graph = Graph()
        guided = graph.add("PosteriorAutoGuidance", measurement=measurement_of(graph), vae=odd(graph, "VAE", what))
        model, _, prompt = loaders(graph, server, "sd15")
        latent = graph.add("EmptyLatentImage", width=32, height=32, batch_size=1)
        sampler = graph.add("PosteriorGuidedDDIM", guidance=guided)
        samples = graph.advanced(model, sampler, odd(graph, "Sigmas", "plain"), latent, prompt)
        graph.add("SaveLatent", samples=samples, filename_prefix="odd")
        # without a VAE Auto takes the model for one of pictures, and the run then says what is missing
        cases[f"Auto, VAE {what}"] = (graph, expected)
        graph = Graph()
        start = graph.add(
            "PosteriorStartingPoint", measurement=measurement_of(graph), start="smooth", vae=odd(graph, "VAE", what)
        )
        graph.add("SaveLatent", samples=start, filename_prefix="odd")
        cases[f"Starting Point, VAE {what}"] = (
            graph,
            {"NaN": nan, "None": WORKS}.get(what, empty),
        )
    graph = Graph()
    _, vae, _ = loaders(graph, server, "sd15")
    pixels = r"This VAE makes latents of 4 channels and the model works on pictures; leave vae empty\."
    cases["pixel prior with a VAE"] = (solved(graph, gaussian(graph), vae=vae), pixels)
    graph = Graph()
    model, _, prompt = loaders(graph, server, "sd15")
    _, other, _ = loaders(graph, server, "sd3")
    other_model = (
        r"This VAE makes latents of 16 channels and the model works on 4 channels; connect the model's own VAE\."
    )
    cases["VAE of another model"] = (solved(graph, model, vae=other, positive=prompt), other_model)
    check(server, cases)
