"""Days of use in minutes: good prompts of two clients, many of them cancelled at random; the last line is JSON.

memory     that the server holds after each tenth, over that when each method had run once, at most; so objects
cancel     seconds of the processor from a Cancel to the end of its prompt: the median, the longest and its method

python3 dev.py bench soak [--quick] [--prompts N] [--seed N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..tools.server import Client, Server
from .composer import written
from .fuzz import bits, busy, counts, test_server

PHOTO = {"photo": ("PosteriorExamplePhoto", {"damage": "scratches"}), "prior": ("PosteriorPhotoPrior", {})}
MASK = {"operator": ("PosteriorInpainting", {"mask": "photo.1"})}
BLUR = {"operator": ("PosteriorMotionBlur", {"length": 7.0, "angle": 30.0})}
SEEN = {"seen": ("PosteriorSimulate", {"image": "photo", "operator": "operator"})}
RUN = {
    "none": ("PosteriorUnconditional", {}),
    "start": ("PosteriorStartingPoint", {"measurement": "seen"}),
    "sigmas": ("KarrasScheduler", {"steps": 6, "sigma_max": 80.0, "sigma_min": 0.02}),
    "samples": ("SamplerCustom", {
        "model": "prior", "positive": "none", "negative": "none", "cfg": 1.0, "sampler": "sampler", "sigmas": "sigmas",
        "latent_image": "start",
    }),
    "vae": ("VAELoader", {"vae_name": "pixel_space"}),
    "picture": ("VAEDecode", {"samples": "samples", "vae": "vae"}),
    "shown": ("PreviewImage", {"images": "picture"}),
}  # fmt: skip
GUIDANCE = ("DDNM", "DiffPIR", "DPS", "PiGDM", "MomentMatching", "DDRM", "DSG")
SAMPLERS = {
    "SplitGibbs": {"inner": 4, "hold": 4}, "DAPS": {}, "REDDiff": {}, "LATINO": {}, "MAPEstimate": {},
    "MGPS": {"more": 4}, "NoiseSpace": {"iterations": 4}, "TDS": {"particles": 4, "batch": 4},
    "BlindSampler": {"size": 7},
}  # fmt: skip
#: share of the prompts that are cancelled
CANCELLED = 0.4


def kinds() -> dict[str, dict[str, Any]]:
    """Every prompt by the method that it uses."""
    shown = {"shown": ("PreviewImage", {"images": "picture"})}
    found = {}
    for estimate in ("restoration", "samples"):
        solve = ("PosteriorSolve", {"model": "prior", "measurement": "seen", "estimate": estimate, "steps": 6})
        found[f"Solve, {estimate}"] = {**PHOTO, **BLUR, **SEEN, "picture": solve, **shown}
    for name in GUIDANCE:
        guided = {"guidance": (f"Posterior{name}", {"measurement": "seen"})}
        by = {"sampler": ("PosteriorGuidedDDIM", {"guidance": "guidance"})}
        found[name] = {**PHOTO, **MASK, **SEEN, **guided, **by, **RUN}
    guided = {"guidance": ("PosteriorDiffPIR", {"measurement": "seen"})}
    prior = {"bare": PHOTO["prior"], "prior": ("PosteriorApplyGuidance", {"model": "bare", "guidance": "guidance"})}
    found["Apply Guidance"] = {
        **PHOTO, **BLUR, **SEEN, **guided, **prior, "sampler": ("KSamplerSelect", {"sampler_name": "dpmpp_2m"}), **RUN,
    }  # fmt: skip
    for name, settings in SAMPLERS.items():
        own = {"guidance": "guidance"} if name == "TDS" else {"measurement": "seen"}
        found[name] = {**PHOTO, **BLUR, **SEEN, **guided, "sampler": (f"Posterior{name}", {**own, **settings}), **RUN}
    found["Exact Posterior"] = {
        **PHOTO, **BLUR,
        "small": ("ImageScale", {"image": "photo", "width": 24, "height": 24}),
        "prior": ("PosteriorTexturePrior", {"image": "small"}),
        "seen": ("PosteriorSimulate", {"image": "small", "operator": "operator"}),
        "picture": ("PosteriorExactPosterior", {"model": "prior", "measurement": "seen"}), **shown,
    }  # fmt: skip
    return found


class User(Client):
    """A client of its own that runs prompts and cancels some of them.

    Args:
        info: the server's object_info.
        chosen: prompts by the method that they use.
    """

    def __init__(self, server: Server, info: dict[str, Any], chosen: dict[str, Any], dice: random.Random) -> None:
        super().__init__(server.url)
        self.server = server
        self.info, self.dice, self.kinds = info, dice, chosen
        self.usual: dict[str, float] = {}  # seconds that each kind takes
        self.delays: list[tuple[float, str]] = []
        self.faults: list[str] = []

    def run_some(self, count: int) -> None:
        for _ in range(count):
            self.run_one(self.dice.choice(list(self.kinds)), cancel=self.dice.random() < CANCELLED)

    def run_one(self, kind: str, cancel: bool) -> None:
        nodes = dict(self.kinds[kind])
        nodes["photo"] = (nodes["photo"][0], {**nodes["photo"][1], "size": self.dice.choice((64, 80))})
        graph = written(nodes, self.info)
        for entry in graph.values():
            seeds = {key: self.dice.randrange(2**32) for key in ("seed", "noise_seed") if key in entry["inputs"]}
            entry["inputs"].update(seeds)
        prompt = self.submit(graph, client=f"soak-{id(self)}")
        while prompt in {entry[1] for entry in self.get("/queue")["queue_pending"]}:
            time.sleep(0.02)
        start, cancelled = time.monotonic(), None
        moment = self.dice.random() * self.usual.get(kind, 0.5) if cancel else float("inf")
        while not (history := self.get(f"/history/{prompt}")):
            time.sleep(0.01)
            if cancelled is None and time.monotonic() - start > moment:
                cancelled = busy(self.server)
                self.post("/interrupt", {"prompt_id": prompt})
        events = {event: details for event, details in history[prompt]["status"]["messages"]}
        if "execution_interrupted" in events:
            self.delays.append((busy(self.server) - cancelled, kind))
        elif "execution_error" in events:
            self.faults.append(f"{kind}: {events['execution_error']['exception_message']}")
        else:
            self.usual[kind] = time.monotonic() - start


def soak(server: Server, prompts: int, seed: int, names: Sequence[str] = (), parts: int = 10) -> dict[str, Any]:
    """Runs each method once, then the prompts in so many parts, after each of which the server's memory is looked at.

    Args:
        names: of the methods; all of them by default.
    """
    info, first = server.object_info(), bits(server)
    chosen = {name: nodes for name, nodes in kinds().items() if name in (names or kinds())}
    users = [User(server, info, chosen, random.Random(f"{seed} {number}")) for number in range(2)]
    for name in chosen:
        users[0].run_one(name, cancel=False)
    held = [counts(server)]
    with ThreadPoolExecutor(len(users)) as pool:
        for _ in range(parts):
            list(pool.map(lambda user: user.run_some(prompts // parts // len(users)), users))
            held.append(counts(server))
    delays = sorted(delay for user in users for delay in user.delays)
    return {
        "memory": max(now["bytes"] for now in held[1:]) / held[0]["bytes"],
        "objects": max(now["objects"] for now in held[1:]) / held[0]["objects"],
        "tensors": max(now["tensors"] for now in held[1:]) - held[0]["tensors"],
        "cancelled": len(delays),
        "cancel": [statistics.median(delay for delay, _ in delays), *delays[-1]] if delays else [],
        "faults": [fault for user in users for fault in user.faults],
        "same": bits(server) == first,
        "megabytes": [now["bytes"] >> 20 for now in held],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 prompts")
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    prompts = options.prompts or (40 if options.quick else 200)
    with test_server() as server:
        start = time.monotonic()
        found = soak(server, prompts, options.seed)
    print(json.dumps({**found, "prompts": prompts, "seconds": round(time.monotonic() - start)}))


if __name__ == "__main__":
    main()
