"""One thread for each server takes pictures from one queue; what a dead server had goes to another."""

from __future__ import annotations

import hashlib
import http.client
import io
import threading
import time
import urllib.error
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import pixels
from .client import Client, PromptError
from .console import Failure
from .restore_graph import can_be_deep, ends, filled, guided_by, prompt_of, said, wants_mask
from .restore_ledger import Ledger

PATIENCE = 60.0  # seconds for which a server that does not answer may start again
LOOK = 1.0  # seconds between two looks whether a server still has a prompt
DEATHS = 2  # as many servers may die at a picture before it is taken for the reason
LARGEST = 95 << 20  # bytes that a server takes at once: the host's own limit is 100 MiB

REFUSED = (PromptError, urllib.error.HTTPError)  # what a server says of a picture
DEAD = (ConnectionError, urllib.error.URLError, http.client.HTTPException, TimeoutError)

Ids = tuple[str | None, str | None]  # of the nodes that load the picture and save the result, where the user says so


@dataclass
class Job:
    path: Path
    name: str
    refused: dict[str, str] = field(default_factory=dict)  # server: what it said
    deaths: int = 0


class Worker(Client):
    """One server, as it is asked for one picture after the other."""

    def __init__(self, url: str, workflow: dict[str, Any], ids: Ids) -> None:
        super().__init__(url)
        self.workflow, self.ids = workflow, ids
        self.running: str | None = None  # id of the prompt
        self.looked = 0.0
        self.info: dict[str, Any] = {}

    def learn(self) -> None:
        """Raises: Failure where this server cannot run the workflow."""
        self.info = self.object_info()
        self.prompt = prompt_of(self.workflow, self.info)
        self.ends = ends(self.prompt, *self.ids)

    def check(self) -> None:
        """A server that was started anew has forgotten our prompt; asking at every poll would cost as much as those."""
        if time.monotonic() - self.looked < LOOK:
            return
        self.looked = time.monotonic()
        queue = self.get("/queue")
        if self.running not in {entry[1] for entries in queue.values() for entry in entries}:
            if not self.get(f"/history/{self.running}"):
                raise ConnectionError("it has forgotten the prompt")

    def cancel(self) -> None:
        if self.running:
            try:
                self.post("/queue", {"delete": [self.running]})
                if self.running in {entry[1] for entry in self.get("/queue")["queue_running"]}:
                    self.post("/interrupt", {"prompt_id": self.running})
            except (OSError, http.client.HTTPException):
                pass  # it is gone, and the prompt with it

    def restored(self, job: Job) -> tuple[list[bytes], dict[str, Any]]:
        """The files of the result, and its row."""
        start = time.monotonic()
        picture = pixels.read(job.path)
        kind, notes = pixels.SUFFIXES[job.path.suffix.lower()], list(picture.notes)
        deep = picture.bits == 16 and can_be_deep(self.info)
        if picture.bits == 16 and not deep:
            notes.append("8 bits: the server has no nodes for more")
        mask = self._mask(job, picture) if wants_mask(self.prompt, self.ends[0]) else None
        values = picture.values
        parts = [(values >> 8), values & 255] if deep else [values >> 8 if picture.bits == 16 else values]
        files = [self._sent(_png(part.astype(np.uint8))) for part in parts]
        prompt = filled(
            self.prompt, *self.ends, files, self._sent(_png(mask)) if mask is not None else None, self.info, deep
        )
        self.running = self.submit(prompt, client="posterior-restore")
        try:
            outputs = self.wait(self.running, float("inf"))
        finally:
            self.running = None
        own = outputs.get(self.ends[1], {})
        if deep:
            results = [_of_latent(self.view(file)) for file in own.get("latents", ())]
            results = [value for batch in results for value in batch]
            deep = kind in pixels.DEEP
        else:
            results = [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in self.images({"": own})]
        if not results:
            raise PromptError("the workflow gave no picture", {})
        reports = said(outputs)
        row = {
            **reports,
            "method": reports["method"] or guided_by(prompt, self.info),
            "seconds": f"{time.monotonic() - start:.2f}",
            "bits": 16 if deep else 8,
            "server": self.url,
            "note": "; ".join(notes),
        }
        return [pixels.encoded(value, kind, picture.exif, picture.icc) for value in results], row

    def _mask(self, job: Job, picture: pixels.Picture) -> np.ndarray:
        path = mask_of(job.path)
        if path.is_file():
            return pixels.read_mask(path, picture.values.shape[:2])
        if picture.alpha is not None:  # as Load Image has it
            return 255 - picture.alpha
        raise ValueError(f"the workflow needs a mask: put {path.name} beside it, white where the picture is lost")

    def _sent(self, content: bytes) -> str:
        """A name by content: after a kill the same prompt comes from the server's cache if it has run by then."""
        if len(content) > LARGEST:
            raise ValueError(f"it is too large for a server ({len(content) >> 20} MiB as PNG)")
        return self.upload(content, f"restore-{hashlib.sha256(content).hexdigest()[:24]}.png", "temp")


class Pool:
    """Workers on a queue of jobs. Starts at once; ask busy() until it says no.

    Args:
        workers: `Worker`, or others that learn, restore and cancel as it does.
    """

    def __init__(self, jobs: list[Job], ledger: Ledger, workers: Sequence[Any]) -> None:
        self.waiting, self.ledger, self.changed = list(jobs), ledger, threading.Condition()
        self.restored = self.failed = self.flying = 0
        self.stopped = False
        self.gone: dict[str, str] = {}
        self.workers = workers
        self.threads = [threading.Thread(target=self._serve, args=(worker,), daemon=True) for worker in self.workers]
        for thread in self.threads:
            thread.start()

    @property
    def left(self) -> int:
        return len(self.waiting)

    def busy(self) -> bool:
        """Waits a little; an interrupt takes our prompts off the servers."""
        try:
            with self.changed:
                self.changed.wait(0.25)
            return any(thread.is_alive() for thread in self.threads)
        except KeyboardInterrupt:
            self.stopped = True
            for worker in self.workers:
                worker.cancel()
            raise

    def end(self) -> None:
        """When nobody is busy: what a server refused, and no other one was left to try, has failed."""
        for job in [job for job in self.waiting if job.refused]:
            self.waiting.remove(job)
            self.failed += 1
            self.ledger.note({"picture": job.name, "status": "failed", "note": "; ".join(job.refused.values())})

    def _serve(self, worker: Worker) -> None:
        try:
            self._reach(worker)
            while job := self._next(worker):
                self._do(worker, job)
        except (Failure, OSError) as failure:  # OSError: a full disk
            with self.changed:
                self.gone[worker.url] = str(failure)
                self.changed.notify_all()

    def _reach(self, worker: Worker) -> None:
        """Wait until the server answers."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return worker.learn()
            except (OSError, http.client.HTTPException, ValueError) as error:
                if time.monotonic() > deadline or not self._next_is_near():
                    raise Failure(f"it does not answer ({error})") from None
                time.sleep(0.5)

    def _next_is_near(self) -> bool:
        with self.changed:
            return bool(self.waiting or self.flying)

    def _next(self, worker: Worker) -> Job | None:
        """A picture that this server has not refused; none when all is done, or for others to do."""
        with self.changed:
            while not self.stopped:
                for job in self.waiting:
                    if worker.url not in job.refused:
                        self.waiting.remove(job)
                        self.flying += 1
                        return job
                if not self.flying and not any(self._takers(job) for job in self.waiting):
                    return None
                self.changed.wait()
        return None

    def _takers(self, job: Job) -> set[str]:
        """The servers that may still try it."""
        return {worker.url for worker in self.workers} - {*job.refused, *self.gone}

    def _do(self, worker: Worker, job: Job) -> None:
        again, why = False, ""
        try:
            files, row = worker.restored(job)
            self.ledger.keep(job.name, files, row)
        except REFUSED as error:
            job.refused[worker.url] = why = str(error)
            again = bool(self._takers(job))
        except DEAD as error:
            job.deaths += 1
            why, again = f"{worker.url} died ({error})", job.deaths < DEATHS
            self._settle(job, why, again)
            return self._reach(worker)
        except Exception as error:  # the picture's own fault, or the disk's: said, and on with the next
            why = str(error) or type(error).__name__
        self._settle(job, why, again)

    def _settle(self, job: Job, why: str, again: bool) -> None:
        try:
            if why and not again and not self.stopped:
                self.ledger.note({"picture": job.name, "status": "failed", "note": why})
        finally:
            with self.changed:
                self.flying -= 1
                self.waiting += [job] * again
                self.failed += bool(why) and not again
                self.restored += not why
                self.changed.notify_all()


def mask_of(path: Path) -> Path:
    """Where the mask of a picture lies, if it has one."""
    return path.with_name(f"{path.stem}.mask.png")


def _png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _of_latent(content: bytes) -> np.ndarray:
    """`B H W 3` of uint16 from the host's file of a latent `B 3 H W` in [-1, 1]."""
    from safetensors.numpy import load

    values = (load(content)["latent_tensor"].astype(np.float64) + 1) / 2
    return np.rint(values.clip(0, 1) * 65535).astype(np.uint16).transpose(0, 2, 3, 1)
