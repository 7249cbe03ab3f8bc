"""Workers of a Ray cluster (https://docs.ray.io): each brings up a ComfyUI with the pack where Ray finds room for it.

Pictures and results travel through Ray's object store, which spills to disk; nobody outside reaches their servers.
A worker that dies is replaced by another one, and what it had is done again.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from .client import PromptError
from .console import Failure
from .restore_workers import Ids, Job, mask_of
from .server import CLONE

#: seconds that a ComfyUI may take to start, with the wait for a free place; its first start may build an environment
START = 900.0
#: what a worker does not need of this clone
LEFT_OUT = [".git", ".run", "__pycache__", "/tests", "/benchmarks", "/docs", "/output", "/workflows", "/web/docs"]


class Cluster:
    """A Ray cluster; use it in a `with` statement.

    Args:
        address: as `ray.init` takes it: HOST:PORT, auto, or local for one on this machine.
        count: how many workers; by default one for each GPU of the cluster, or for each machine where there is none.

    Raises:
        Failure: where Ray is not installed, or there is no cluster.
    """

    def __init__(self, address: str, count: int | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # where Ray is started here: else all other programs go first
        try:
            import ray
        except ImportError:
            raise Failure("--ray needs the package ray: install it into the Python of this ComfyUI.") from None
        self.ray = ray
        code = {"working_dir": str(CLONE), "excludes": LEFT_OUT}
        more = {"include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address, runtime_env=code, log_to_driver=False, logging_level="ERROR", **more)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise Failure(f"There is no Ray cluster at {address}: {str(error).splitlines()[0]}") from None
        gpus = int(ray.cluster_resources().get("GPU", 0))
        self.count = count or gpus or len(ray.nodes())
        self.host = ray.remote(_host_class()).options(
            num_cpus=1, num_gpus=min(gpus, 1), scheduling_strategy="SPREAD", max_restarts=0
        )

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.ray.shutdown()

    def workers(self, workflow: dict[str, Any], ids: Ids) -> list[RayWorker]:
        return [RayWorker(self, f"worker {number}", workflow, ids) for number in range(1, self.count + 1)]


class RayWorker:
    """One ComfyUI of the cluster, as `restore_workers.Worker` for the pool that hands out the pictures."""

    def __init__(self, cluster: Cluster, url: str, workflow: dict[str, Any], ids: Ids) -> None:
        self.ray, self.make, self.url, self.workflow, self.ids = cluster.ray, cluster.host, url, workflow, ids
        self.host: Any = None

    def learn(self) -> None:
        """Start a ComfyUI, in place of the one that died.

        Raises:
            Failure: where it cannot run the workflow.
            ConnectionError: where it does not start.
        """
        self.cancel()
        self.host = self.make.remote(os.environ.get("COMFYUI_PATH"))
        self._answer(self.host.learn.remote(self.workflow, self.ids), START)

    def restored(self, job: Job) -> tuple[list[bytes], dict[str, Any]]:
        mask = mask_of(job.path)
        files = {job.path.name: job.path.read_bytes()} | ({mask.name: mask.read_bytes()} if mask.is_file() else {})
        results, row = self._answer(self.host.restored.remote(job.name, job.path.name, files))
        return results, {**row, "server": f"{self.url}, {row['server']}"}

    def cancel(self) -> None:
        if self.host is not None:
            with contextlib.suppress(self.ray.exceptions.RayError):
                self.ray.kill(self.host)  # its ComfyUI ends with it

    def _answer(self, reference: Any, timeout: float | None = None) -> Any:
        """What the host has made, or its error as one of ours."""
        errors = self.ray.exceptions
        try:
            kind, value = self.ray.get(reference, timeout=timeout)
        except (errors.RayError, errors.GetTimeoutError) as error:
            raise ConnectionError(str(error).strip().splitlines()[-1]) from None
        if kind == "made":
            return value
        raise {"failure": Failure, "died": ConnectionError, "fault": ValueError}.get(kind, _refused)(value)


def _refused(words: str) -> PromptError:
    return PromptError(words, {})


def _host_class() -> type:
    """What runs on the cluster: made within a function it travels whole, since there the pack is not yet registered."""

    class Host:
        def __init__(self, comfyui: str | None) -> None:
            from tools.package import register  # Ray runs it in a copy of this clone

            register()
            from posterior.tools import environment
            from posterior.tools.server import Server

            self.server = Server(environment.get(comfyui)).start()

        def learn(self, workflow: dict[str, Any], ids: Ids) -> tuple[str, Any]:
            from posterior.tools.restore_workers import Worker

            self.worker = Worker(self.server.url, workflow, ids)
            return self._tried(self.worker.learn)

        def restored(self, name: str, file: str, files: dict[str, bytes]) -> tuple[str, Any]:
            import tempfile

            from posterior.tools.restore_workers import Job

            def made() -> tuple[list[bytes], dict[str, Any]]:
                results, row = self.worker.restored(Job(Path(folder, file), name))
                return results, {**row, "server": f"process {os.getpid()}"}

            with tempfile.TemporaryDirectory() as folder:
                for each, content in files.items():
                    Path(folder, each).write_bytes(content)
                return self._tried(made)

        def _tried(self, work: Any) -> tuple[str, Any]:
            """Errors go home as words, since Ray knows no classes of ours."""
            from posterior.tools.console import Failure
            from posterior.tools.restore_workers import DEAD, REFUSED

            try:
                return "made", work()
            except Failure as error:
                return "failure", str(error)
            except REFUSED as error:
                return "refused", str(error)
            except DEAD as error:
                return "died", str(error)
            except Exception as error:
                return "fault", str(error) or type(error).__name__

    return Host
