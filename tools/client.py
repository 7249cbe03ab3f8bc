"""A client for the HTTP API of a running ComfyUI."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy must not see loopback


class PromptError(Exception):
    """A prompt that the server refused or that failed in a node; says what the server said."""

    def __init__(self, message: str, details: dict[str, Any]) -> None:
        super().__init__(message)
        self.details = details


class Client:
    """What can be asked of the ComfyUI at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def check(self) -> None:
        """Raises while a prompt is waited for, where it will never run."""

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

    def submit(self, prompt: dict[str, Any], workflow: dict[str, Any] | None = None, client: str = "") -> str:
        """Queue an API prompt (the UI workflow goes into the pictures' metadata); gives its id.

        With a client's name the history has the outputs of cached nodes too, and progress goes to that client only.
        """
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        named = {"client_id": client} if client else {}
        try:
            details = self.post("/prompt", {"prompt": prompt, "extra_data": extra, **named})
        except urllib.error.HTTPError as error:
            details = json.loads(error.read())
        if details.get("node_errors") or "prompt_id" not in details:  # the server would run what is right of it
            raise PromptError(_refusal(details), details)
        return details["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 600.0) -> dict[str, Any]:
        """The outputs by node id, once the prompt has run."""
        deadline = time.monotonic() + timeout
        while not (history := self.get(f"/history/{prompt_id}")):
            self.check()
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

    def upload(self, image: Path | bytes, name: str | None = None, folder: str = "input") -> str:
        """Put an image into the input folder (or temp, which a server empties); gives the name that LoadImage takes."""
        content = image if isinstance(image, bytes) else image.read_bytes()
        name = name or (f"{uuid.uuid4().hex}.png" if isinstance(image, bytes) else image.name)
        mark = uuid.uuid4().hex
        head, binary = 'Content-Disposition: form-data; name="{}"', "Content-Type: application/octet-stream"
        fields = {"overwrite": "true", "type": folder}
        body = "".join(f"--{mark}\r\n{head.format(key)}\r\n\r\n{value}\r\n" for key, value in fields.items())
        body += f'--{mark}\r\n{head.format("image")}; filename="{name}"\r\n{binary}\r\n\r\n'
        content = body.encode() + content + f"\r\n--{mark}--\r\n".encode()
        answer = json.loads(self.request("/upload/image", content, f"multipart/form-data; boundary={mark}"))["name"]
        return answer if folder == "input" else f"{answer} [{folder}]"


def _refusal(details: dict[str, Any]) -> str:
    lines = [details.get("error", {}).get("message", "The server refused a part of the prompt")]
    for node in details.get("node_errors", {}).values():
        lines += [f"{node['class_type']}: {error['message']} ({error['details']})" for error in node["errors"]]
    return "; ".join(lines)
