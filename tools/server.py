"""A real ComfyUI server with this clone as its node pack."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .client import Client, PromptError
from .console import Failure
from .environment import Environment

__all__ = ["CLONE", "Client", "PromptError", "Server", "free_port", "has_gpu", "port_is_free"]

CLONE = Path(__file__).resolve().parent.parent
FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user")


class Server(Client):
    """A server of its own: base directory, free port, log file. Use it in a `with` statement, or start() and stop().

    Without a base directory it works in a temporary one that goes away with it. It ends with this process, however
    this process ends.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        base: Path | None = None,
        port: int | None = None,
        cpu: bool | None = None,
        clone: Path = CLONE,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.environment, self.clone, self.arguments = environment, clone, arguments
        self.temporary = base is None
        self.base = base or Path(tempfile.mkdtemp(prefix="posterior-"))
        self.port = port or free_port()
        self.cpu = not has_gpu(environment.python) if cpu is None else cpu
        super().__init__(f"http://127.0.0.1:{self.port}")
        self.log_file = self.base / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def input(self) -> Path:
        return self.base / "input"

    @property
    def output(self) -> Path:
        return self.base / "output"

    # Starting and stopping

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 300.0) -> Server:
        if not port_is_free(self.port):
            raise Failure(f"Port {self.port} is taken by another program; choose another one with --port.")
        for name in FOLDERS:
            (self.base / name).mkdir(parents=True, exist_ok=True)
        _link(self.base / "custom_nodes" / "posterior", self.clone)
        paths = self.base / "models.yaml"
        paths.write_text(_model_paths(self.environment.models), encoding="utf-8")
        command = [str(self.environment.python), str(Path(__file__).with_name("launch.py"))]
        command += [str(self.environment.host / "main.py"), "--port", str(self.port)]
        command += ["--base-directory", str(self.base), "--extra-model-paths-config", str(paths)]
        command += ["--database-url", f"sqlite:///{self.base / 'user' / 'comfyui.db'}", "--disable-auto-launch"]
        command += ["--disable-api-nodes", "--preview-method", "auto", *self.arguments, *["--cpu"] * self.cpu]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.base,
                env={**os.environ, "PYTHONIOENCODING": "utf-8"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is ours
            )
        try:
            self._await_listening(time.monotonic() + timeout)
            self._check_pack()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.stdin.close()  # launch.py ends when this closes
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
        if self.temporary:
            _unlink(self.base / "custom_nodes" / "posterior")
            shutil.rmtree(self.base, ignore_errors=True)

    def check(self) -> None:
        if self.process.poll() is not None:
            raise Failure(f"ComfyUI ended; its last lines:\n{self._last_lines()}")

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def _await_listening(self, deadline: float) -> None:
        while True:
            if self.process.poll() is not None:
                raise Failure(f"ComfyUI did not start; its last lines:\n{self._last_lines()}")
            if time.monotonic() > deadline:
                raise Failure(f"ComfyUI did not answer in time; its last lines:\n{self._last_lines()}")
            try:
                self.get("/system_stats")
                return
            except (OSError, http.client.HTTPException):
                time.sleep(0.2)

    def _check_pack(self) -> None:
        log = self.log()
        if re.search(r"\((?:IMPORT|PRESTARTUP) FAILED\): .*custom_nodes.posterior\s", log):
            why = re.search(r"(?:Cannot import|Error while calling comfy_entrypoint in) .*?posterior( .*?)?: (.*)", log)
            raise Failure(f"ComfyUI could not import the pack: {why[2] if why else self._last_lines()}")

    def _last_lines(self, count: int = 15) -> str:
        return "\n".join(self.log().splitlines()[-count:])


def free_port(wanted: int = 0) -> int:
    """The wanted port if nobody has it, else any free one."""
    if wanted and port_is_free(wanted):
        return wanted
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        if sys.platform != "win32":  # a port that only waits out its last connections is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def has_gpu(python: Path) -> bool:
    code = "import torch; raise SystemExit(not (torch.cuda.is_available() or torch.backends.mps.is_available()))"
    return subprocess.run([str(python), "-c", code], capture_output=True).returncode == 0


def _model_paths(folders: tuple[Path, ...]) -> str:
    """ComfyUI's extra model paths (YAML, of which JSON is a part)."""
    kinds = {
        f"models{number}": {"base_path": str(folder), **{kind.name: kind.name for kind in sorted(folder.iterdir())}}
        for number, folder in enumerate(folders)
        if folder.is_dir()
    }
    return json.dumps(kinds, indent=1)


def _link(link: Path, target: Path) -> None:
    if sys.platform == "win32":
        import _winapi

        _unlink(link)
        _winapi.CreateJunction(str(target), str(link))
    else:
        _unlink(link)
        link.symlink_to(target, target_is_directory=True)


def _unlink(link: Path) -> None:
    if os.path.lexists(link):
        (os.rmdir if sys.platform == "win32" else os.unlink)(link)
