"""Prompts with every kind of bad value and wiring, sent to a real server; an answer that is no sentence is a fault.

The server must live on, must refuse what it cannot do in one sentence, must end soon after a Cancel, must hold no more
memory than before, and must give for the next good prompt the bits that it gave for the first.

    python3 dev.py bench fuzz [--quick] [--cases N] [--seed N]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import sys
import time
import urllib.error
from collections import Counter
from contextlib import suppress
from typing import Any

import psutil

from ..tools import environment
from ..tools.server import CLONE, Client, Server
from .composer import Composer, written
from .verdict import Answer, judged

NODES = CLONE / "tests" / "server_nodes"
#: seconds of the server's processor after which a prompt is cancelled
PATIENCE = 0.5
NUMBERS = [
    math.nan, math.inf, -math.inf, -1, 0, 1e-300, 1e308, 2**63, 10**30, "", "abc", "1e3", "nan", None, True, [], {},
    [1, 2, 3], ["1"], [["1"], 0], {"__value__": [1, 2]}, "\x00", "9" * 400,
]  # fmt: skip
WORDS = ["", "no such choice", "../../../etc/passwd", "/etc/passwd", "a/../../b", None, 3, True, [], {}, "a" * 999]


class Fuzzer:
    """Sends spoilt prompts.

    Args:
        server: with the nodes of tests/server_nodes.
        seed: of all chance: the same one gives the same prompts.
    """

    def __init__(self, server: Server, seed: int) -> None:
        self.server = server
        shutil.copy(CLONE / "photos" / "chelsea.jpg", server.input / "fuzz.jpg")
        self.info = server.object_info()
        self.dice = random.Random(seed)
        self.composer = Composer(self.info, self.dice)
        self.turn: list[str] = []

    def case(self) -> tuple[str, dict[str, Any]]:
        """What was spoilt, and the prompt; every node of the pack has its turn."""
        self.turn = self.turn or self.dice.sample(self.composer.ours, len(self.composer.ours))
        name = self.turn.pop()
        graph = self.composer.prompt(name)
        spoilt = [self.dice.choice(SPOILERS)(self, graph) for _ in range(self.dice.choice((0, 1, 1, 1, 1, 2)))]
        return f"{name}: {'; '.join(filter(None, spoilt)) or 'as it is'}", graph

    def answer(self, graph: dict[str, Any]) -> Answer:
        try:
            details = self.server.post("/prompt", {"prompt": graph})
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            ours = "custom_nodes/posterior" in text and "RecursionError" not in text  # the host goes round in circles
            return Answer("refused" if error.code == 400 and not ours else "fault", text)
        prompt, start, cancelled = details["prompt_id"], busy(self.server), None
        while not (history := self.server.get(f"/history/{prompt}")):
            self.server.check()
            time.sleep(0.005)
            if cancelled is None and busy(self.server) - start > PATIENCE:
                cancelled = busy(self.server)
                self.server.interrupt()
        return judged(history[prompt], busy(self.server) - cancelled if cancelled is not None else 0.0)

    # What can be spoilt

    def _widget(self, graph: dict[str, Any]) -> tuple[dict[str, Any], str, str, dict[str, Any]] | None:
        """A widget of a node of ours: the node's inputs, the widget's name, type and options."""
        found = [
            (entry["inputs"], key, kind, options)
            for entry in graph.values()
            if entry.get("class_type", "").startswith("Posterior")
            for key, kind, options in self.composer.inputs(entry.get("class_type"))
            if kind in ("INT", "FLOAT", "COMBO", "STRING", "BOOLEAN")
        ]
        return self.dice.choice(found) if found else None

    def bad_value(self, graph: dict[str, Any]) -> str:
        if not (found := self._widget(graph)):
            return ""
        inputs, key, kind, options = found
        values = WORDS if kind in ("COMBO", "STRING") else [
            *NUMBERS, options.get("min"), options.get("max"), options.get("min", 0) - 1, options.get("max", 0) + 1
        ]  # fmt: skip
        inputs[key] = self.dice.choice(values)
        return f"{key} = {str(inputs[key])[:40]!r}"

    def _link(self, graph: dict[str, Any]) -> tuple[str, str] | None:
        """A link into a node of ours: that node's id, and the input."""
        found = [
            (name, key)
            for name, entry in graph.items()
            for key, value in entry["inputs"].items()
            if isinstance(value, list) and entry.get("class_type", "").startswith("Posterior")
        ]
        return self.dice.choice(found) if found else None

    def any_value(self, graph: dict[str, Any]) -> str:
        """A value of another type, as it comes through the "any" sockets of other packs; also into a widget."""
        spot = self._link(graph) if self.dice.random() < 0.6 else None
        if spot is None and (found := self._widget(graph)):
            inputs, key = found[:2]
        elif spot:
            inputs, key = graph[spot[0]]["inputs"], spot[1]
        else:
            return ""
        what = self.dice.choice(self.info["TestAny"]["input"]["required"]["what"][0])
        graph["any"] = {"class_type": "TestAny", "inputs": {"what": what}}
        earlier = [name for name in graph if not any(needed is inputs for needed in self._needs(graph, name))]
        if what == "value" and earlier:
            source = self.dice.choice(earlier)
            made = self.info.get(graph[source].get("class_type"), {}).get("output")
            if made and source != "any":
                graph["any"]["inputs"]["value"] = [source, self.dice.randrange(len(made))]
        inputs[key] = ["any", 0]
        return f"{key} takes {what}"

    def _needs(self, graph: dict[str, Any], name: str) -> list[dict[str, Any]]:
        """The inputs of the node of this name and of all that it needs."""
        found, waiting = {}, [name]
        while waiting:
            if (node := waiting.pop()) not in found and node in graph:
                found[node] = graph[node]["inputs"]
                links = [value[0] for value in found[node].values() if isinstance(value, list) and value]
                waiting += [link for link in links if isinstance(link, str)]
        return list(found.values())

    def wrong_link(self, graph: dict[str, Any]) -> str:
        if not (spot := self._link(graph)):
            return ""
        name, key = spot
        link = [self.dice.choice([*graph, "no such node"]), self.dice.choice([0, 0, 1, 7, -1])]
        graph[name]["inputs"][key] = link
        return f"{key} linked to {link}"

    def dropped(self, graph: dict[str, Any]) -> str:
        if not (spot := self._link(graph)):
            return ""
        del graph[spot[0]]["inputs"][spot[1]]
        return f"without {spot[1]}"

    def odd_source(self, graph: dict[str, Any]) -> str:
        """Pictures, masks, step lists and VAEs of other sizes, batches and ranges, as other packs hand them over."""
        found = [
            (entry["inputs"], key, kind)
            for entry in graph.values()
            if entry.get("class_type", "").startswith("Posterior")
            for key, kind, _ in self.composer.inputs(entry.get("class_type"))
            if kind in ("IMAGE", "MASK", "SIGMAS", "VAE")
        ]
        if not found:
            return ""
        inputs, key, kind = self.dice.choice(found)
        node = f"TestOdd{kind if kind == 'VAE' else kind.capitalize()}"
        what = self.dice.choice(self.info[node]["input"]["required"]["what"][0])
        graph["odd"] = {"class_type": node, "inputs": {"what": what}}
        inputs[key] = ["odd", 0]
        return f"{key} is {what}"

    def odd_node(self, graph: dict[str, Any]) -> str:
        entry = graph[self.dice.choice(list(graph))]
        change = self.dice.choice(["class", "no class", "more", "no inputs"])
        if change == "class":
            entry["class_type"] = self.dice.choice(["PosteriorNoSuchNode", "", "../x", "PosteriorSolve"])
        elif change == "no class":
            del entry["class_type"]
        elif change == "more":
            entry["inputs"]["more"] = self.dice.choice(NUMBERS)
        else:
            entry["inputs"] = {}
        return change


SPOILERS = [
    *[Fuzzer.bad_value] * 5, *[Fuzzer.any_value] * 3, *[Fuzzer.odd_source] * 4, Fuzzer.wrong_link, Fuzzer.dropped,
    Fuzzer.odd_node,
]  # fmt: skip


#: a repair with noise, whose picture is kept as numbers
GOOD = {
    "photo": ("PosteriorExamplePhoto", {"damage": "scratches", "size": 64}),
    "operator": ("PosteriorInpainting", {"mask": "photo.1"}),
    "seen": ("PosteriorSimulate", {"image": "photo", "operator": "operator", "seed": 1}),
    "prior": ("PosteriorPhotoPrior", {}),
    "solved": ("PosteriorSolve", {"model": "prior", "measurement": "seen", "estimate": "samples", "steps": 4}),
    "vae": ("VAELoader", {"vae_name": "pixel_space"}),
    "numbers": ("VAEEncode", {"pixels": "solved", "vae": "vae"}),
    "saved": ("SaveLatent", {"samples": "numbers", "filename_prefix": "fuzz/good"}),
}


def busy(server: Server) -> float:
    """Seconds that the server has computed: what other programs do meanwhile does not count."""
    return sum(psutil.Process(server.process.pid).cpu_times()[:2])


def bits(server: Client) -> bytes:
    """The result of a good prompt as numbers; nothing of it comes from a cache."""
    server.post("/free", {"unload_models": True, "free_memory": True})
    (file,) = server.run(written(GOOD, server.object_info()))["saved"]["latents"]
    content = server.view(file)
    return content[8 + int.from_bytes(content[:8], "little") :]  # behind the header, which holds the prompt


def counts(server: Client) -> dict[str, int]:
    """What the server holds when nothing is cached: objects, tensors, bytes of memory."""
    server.post("/free", {"unload_models": True, "free_memory": True})
    server.post("/history", {"clear": True})
    for _ in range(2):  # the first one lets the cache go
        outputs = server.run({"1": {"class_type": "TestCounts", "inputs": {}}})
    return json.loads(outputs["1"]["text"][0])


def fuzz(server: Server, cases: int, seed: int, report=lambda line: None) -> dict[str, Any]:
    """Runs the cases; gives how many ended how, the faults, and what memory did from the first third on."""
    fuzzer, kinds, faults, before = Fuzzer(server, seed), Counter(), [], None
    first = bits(server)
    for number in range(cases):
        if number == cases // 3:
            before = counts(server)
        what, graph = fuzzer.case()
        start = time.monotonic()
        found = fuzzer.answer(graph)
        kinds[found.kind] += 1
        report(f"{number} {time.monotonic() - start:.2f} {found.kind} {what} | {found.text}")
        if found.kind == "fault":
            faults.append(f"{number}, {what}: {found.text}\n{json.dumps(graph)}")
    after = counts(server)
    same = bits(server) == first
    return {"kinds": dict(kinds), "faults": faults, "same": same, "before": before, "after": after}


def test_server() -> Server:
    """A server with the nodes of the tests."""
    server = Server(environment.get(os.environ.get("COMFYUI_PATH")), cpu=True)
    shutil.copytree(NODES, server.base / "custom_nodes")
    return server


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 cases")
    parser.add_argument("--cases", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="every case in a line of its own")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with test_server() as server:
        start = time.monotonic()
        say = (lambda line: print(line, flush=True)) if options.verbose else (lambda line: None)
        found = fuzz(server, options.cases or (200 if options.quick else 3000), options.seed, say)
        seconds = time.monotonic() - start
    print("\n".join(found["faults"]))
    print(json.dumps({**found, "faults": len(found["faults"]), "seconds": round(seconds)}))
    return int(bool(found["faults"]) or not found["same"])


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
