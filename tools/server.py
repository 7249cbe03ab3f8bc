"""A real ComfyUI server with this clone as its node pack, and a small client for its HTTP API."""

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
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from .console import Failure
from .environment import Environment

CLONE = Path(__file__).resolve().parent.parent
FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user")
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy must not see loopback


class PromptError(Exception):
    """A prompt that the server refused or that failed in a node; says what the server said."""

    def __init__(self, message: str, details: dict[str, Any]) -> None:
        super().__init__(message)
        self.details = details


class Server:
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
        self.url = f"http://127.0.0.1:{self.port}"
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

    # The client

    def request(self, path: str, data: bytes | None = None, kind: str = "application/json") -> bytes:
        request = urllib.request.Request(self.url + path, data, {"Content-Type": kind} if data is not None else {})
        with _OPENER.open(request, timeout=60) as response:
            return response.read()

    def get(self, path: str) -> Any:
        return json.loads(self.request(path))

    def post(self, path: str, value: Any) -> Any:
        answer = self.request(path, json.dumps(value).encode())
        return json.loads(answer) if answer else None

    def system(self) -> dict[str, Any]:
        return self.get("/system_stats")["system"]

    def object_info(self) -> dict[str, Any]:
        return self.get("/object_info")

    def submit(self, prompt: dict[str, Any], workflow: dict[str, Any] | None = None) -> str:
        """Queue an API prompt (the UI workflow goes into the pictures' metadata); gives its id."""
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        try:
            details = self.post("/prompt", {"prompt": prompt, "extra_data": extra})
        except urllib.error.HTTPError as error:
            details = json.loads(error.read())
        if details.get("node_errors") or "prompt_id" not in details:  # the server would run what is right of it
            raise PromptError(_refusal(details), details)
        return details["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 600.0) -> dict[str, Any]:
        """The outputs by node id, once the prompt has run."""
        deadline = time.monotonic() + timeout
        while not (history := self.get(f"/history/{prompt_id}")):
            if self.process.poll() is not None:
                raise Failure(f"ComfyUI ended; its last lines:\n{self._last_lines()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"The prompt has not run within {timeout:.0f} s.")
            time.sleep(0.1)
        entry = history[prompt_id]
        for event, details in entry["status"]["messages"]:
            if event == "execution_error":
                raise PromptError(f"{details['node_type']}: {details['exception_message'].strip()}", details)
            if event == "execution_interrupted":
                raise PromptError("interrupted", details)
        return entry["outputs"]

    def run(self, prompt: dict[str, Any], timeout: float = 600.0) -> dict[str, Any]:
        return self.wait(self.submit(prompt), timeout)

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def running(self) -> bool:
        return bool(self.get("/queue")["queue_running"])

    def view(self, file: dict[str, str]) -> bytes:
        """The content of an output file, as the outputs name it: filename, subfolder, type."""
        return self.request("/view?" + urllib.parse.urlencode(file))

    def images(self, outputs: dict[str, Any]) -> list[bytes]:
        files = [file for output in outputs.values() for file in output.get("images", ())]
        return [self.view(file) for file in files]

    def upload(self, image: Path | bytes, name: str | None = None) -> str:
        """Put an image into the input folder; gives the name that LoadImage takes."""
        content = image if isinstance(image, bytes) else image.read_bytes()
        name = name or (f"{uuid.uuid4().hex}.png" if isinstance(image, bytes) else image.name)
        mark = uuid.uuid4().hex
        head = 'Content-Disposition: form-data; name="{}"'
        fields = f"--{mark}\r\n{head.format('overwrite')}\r\n\r\ntrue\r\n--{mark}\r\n{head.format('image')}"
        body = f'{fields}; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'.encode()
        body += content + f"\r\n--{mark}--\r\n".encode()
        return json.loads(self.request("/upload/image", body, f"multipart/form-data; boundary={mark}"))["name"]


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


def _refusal(details: dict[str, Any]) -> str:
    lines = [details.get("error", {}).get("message", "The server refused a part of the prompt")]
    for node in details.get("node_errors", {}).values():
        lines += [f"{node['class_type']}: {error['message']} ({error['details']})" for error in node["errors"]]
    return "; ".join(lines)
