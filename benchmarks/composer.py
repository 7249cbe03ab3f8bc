"""Well-typed prompts at random: any node of the pack, fed by nodes that give what it takes, down to a picture."""

from __future__ import annotations

import random
from typing import Any

from ..tools.workflow import inputs_of

PACK = "custom_nodes.posterior"
#: for each type, what gives it when the graph must not grow any more; inputs are drawn as everywhere
LEAVES = {
    "IMAGE": [("TestOddImage", {"what": what}) for what in ("plain", "plain", "two")],
    "MASK": [("TestOddMask", {"what": "plain"})],
    "SIGMAS": [("TestOddSigmas", {"what": "plain"})],
    "MODEL": [("PosteriorMixturePrior", {}), ("PosteriorPhotoPrior", {})],
    "VAE": [("VAELoader", {"vae_name": "pixel_space"})],
    "LATENT": [("PosteriorStartingPoint", {"batch_size": 1})],
    "CONDITIONING": [("PosteriorUnconditional", {})],
    "SAMPLER": [("PosteriorGuidedDDIM", {}), ("KSamplerSelect", {"sampler_name": "euler"})],
    "MEASUREMENT_OPERATOR": [("PosteriorInpainting", {}), ("PosteriorGaussianBlur", {"sigma": 1.0})],
    "MEASUREMENT": [("PosteriorObserve", {}), ("PosteriorSimulate", {})],
    "LIKELIHOOD_GUIDANCE": [("PosteriorDDNM", {}), ("PosteriorDPS", {}), ("PosteriorDiffPIR", {})],
    "CONVERGENCE": [("PosteriorRecordConvergence", {})],
    "JPEG_FILE": [("PosteriorReadJPEG", {})],
}
#: for each type, who takes it on (node, input, output that goes on) and how the last ones are shown
NEXT = {
    "MODEL": ("SamplerCustom", "model", 0), "SAMPLER": ("SamplerCustom", "sampler", 0),
    "SIGMAS": ("SamplerCustom", "sigmas", 0), "LATENT": ("VAEDecode", "samples", 0),
    "CONDITIONING": ("SamplerCustom", "positive", 0), "LIKELIHOOD_GUIDANCE": ("PosteriorGuidedDDIM", "guidance", 0),
    "MEASUREMENT_OPERATOR": ("PosteriorSimulate", "operator", 0), "JPEG_FILE": ("PosteriorJPEG", "file", 0),
    "CONVERGENCE": ("PosteriorConvergencePlot", "record", 0), "MEASUREMENT": ("PosteriorDiffPIR", "measurement", 0),
}  # fmt: skip
SHOWN = {"IMAGE": ("PreviewImage", "images"), "MASK": ("MaskPreview", "mask")}
#: whole numbers are this large at most, so that a prompt takes a moment
LARGEST = 4


class Composer:
    """Writes prompts.

    Args:
        info: the server's object_info.
        dice: where chance comes from.
    """

    def __init__(self, info: dict[str, Any], dice: random.Random) -> None:
        self.info, self.dice = info, dice
        self.ours = sorted(name for name, node in info.items() if node["python_module"] == PACK)
        self.givers = {kind: [n for n in self.ours if kind in info[n]["output"]] for kind in LEAVES}
        self.graph: dict[str, Any] = {}

    def prompt(self, name: str) -> dict[str, Any]:
        """A prompt in which the node of this name runs."""
        self.graph = {}
        made, kinds = self.node(name, {}, 2), self.info[name]["output"]
        slot = self.dice.randrange(len(kinds))
        self._show([made, slot], kinds[slot])
        return self.graph

    def node(self, name: str, given: dict[str, Any], depth: int) -> str:
        """Adds a node with all that it needs, and now and then with what it may have; gives its id."""
        inputs = dict(given)
        required = self.info[name]["input"].get("required", {})
        for key, kind, options in inputs_of(self.info[name]):
            if key in inputs or (key not in required and self.dice.random() < 0.6):
                continue
            if kind in LEAVES:
                inputs[key] = self.output(kind, depth - 1)
            else:
                inputs[key] = self.value(kind, options)
        name_of = str(len(self.graph) + 1)
        self.graph[name_of] = {"class_type": name, "inputs": inputs}
        return name_of

    def inputs(self, name: str | None) -> list[tuple[str, str, dict[str, Any]]]:
        """(name, type, options) of the inputs of a node; none of one that does not exist."""
        return list(inputs_of(self.info[name])) if name in self.info else []

    def output(self, kind: str, depth: int) -> list[Any]:
        """A link to something that gives this type; an old node where chance wills it."""
        old = [
            [node, slot]
            for node, entry in self.graph.items()
            for slot, made in enumerate(self.info[entry["class_type"]]["output"])
            if made == kind
        ]
        if old and self.dice.random() < 0.7:
            return self.dice.choice(old)
        if depth > 0 and self.givers[kind] and self.dice.random() < 0.5:
            name, given = self.dice.choice(self.givers[kind]), {}
        else:
            name, given = self.dice.choice(LEAVES[kind])
        slots = [slot for slot, made in enumerate(self.info[name]["output"]) if made == kind]
        return [self.node(name, given, depth), self.dice.choice(slots)]

    def value(self, kind: str, options: dict[str, Any]) -> Any:
        """A good value of a widget."""
        if kind == "INT":
            return max(options.get("min", 0), min(options.get("default", 0), LARGEST))
        if kind == "COMBO" and options.get("options") and ("default" not in options or self.dice.random() < 0.5):
            return self.dice.choice(options["options"])
        return options.get("default", "")

    def _show(self, link: list[Any], kind: str) -> None:
        while kind not in SHOWN and kind in NEXT:
            name, key, slot = NEXT[kind]
            if kind == "MEASUREMENT" and self.dice.random() < 0.5:
                name, key, slot = "PosteriorPreviewMeasurement", "measurement", 0
            link = [self.node(name, {key: link}, 1), slot]
            kind = self.info[name]["output"][slot]
        name, key = SHOWN.get(kind, ("PreviewAny", "source"))
        self.graph[str(len(self.graph) + 1)] = {"class_type": name, "inputs": {key: link}}


def first(options: dict[str, Any]) -> Any:
    """What a widget shows at first."""
    return options.get("default", next(iter(options.get("options", ())), None))


def written(nodes: dict[str, tuple[str, dict[str, Any]]], info: dict[str, Any]) -> dict[str, Any]:
    """A prompt from names, node types and what is not as the node has it by itself; a text that is a name is a link.

    Args:
        nodes: (type, inputs) by name; "photo.1" links to the second output of photo.
        info: the server's object_info.
    """
    graph = {}
    for name, (kind, given) in nodes.items():
        inputs = {key: first(options) for key, _, options in inputs_of(info[kind]) if first(options) is not None}
        for key, value in given.items():
            source, _, slot = str(value).partition(".")
            inputs[key] = [source, int(slot or 0)] if isinstance(value, str) and source in nodes else value
        graph[name] = {"class_type": kind, "inputs": inputs}
    return graph
