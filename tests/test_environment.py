"""The developer's command: what it builds, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from posterior.tools import environment
from posterior.tools.console import Failure
from posterior.tools.server import CLONE, Server, _model_paths, free_port, port_is_free

HERE = environment.Environment(Path(sys.executable), Path("nowhere"), (), ours=False)


def dev(*arguments: str, before: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    code = f"import runpy, sys; sys.argv[1:] = {list(arguments)!r}; sys.path.insert(0, '.'); {before}\n"
    code += "runpy.run_path('dev.py', run_name='__main__')"
    settings = {**os.environ, **variables}
    return subprocess.run([sys.executable, "-c", code], cwd=CLONE, env=settings, capture_output=True, text=True)


def says(result: subprocess.CompletedProcess[str], sentence: str) -> bool:
    return result.returncode == 1 and sentence in result.stderr and "Traceback" not in result.stderr


def test_every_input_names_the_environment():
    inputs = environment.inputs()
    names = {environment.name([*inputs[:i], inputs[i] + "x", *inputs[i + 1 :]]) for i in range(len(inputs))}
    assert len(names | {environment.name(inputs)}) == len(inputs) + 1
    assert environment.name(inputs) == environment.name(list(inputs))


def test_the_requirements_are_inputs():
    texts = [path.read_text(encoding="utf-8") for path in environment.REQUIREMENTS]
    assert len(texts) == 2 and all(text in environment.inputs() for text in texts)
    assert environment.HOST in environment.inputs()


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("POSTERIOR_CACHE", str(tmp_path))
    assert environment.cache() == tmp_path.resolve()


def test_one_build_at_a_time(tmp_path):
    path = tmp_path / "env-0.lock"
    with environment._lock(path), path.open("a+") as other:
        assert not environment.try_lock(other.fileno())
    with path.open("a+") as other:
        assert environment.try_lock(other.fileno())


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("NewConnectionError: Failed to establish a new connection\nERROR: No matching distribution", "no network"),
        ("ERROR: No matching distribution found for torch==9", "torch==9 does not exist for Python"),
        ("Collecting x\nERROR: something else\n", "something else"),
    ],
)
def test_why_pip_failed(tmp_path, log, sentence):
    (tmp_path / "build.log").write_text(log)
    assert sentence in environment._reason("Installing", tmp_path / "build.log")


def test_a_failing_step_is_one_sentence(tmp_path):
    with pytest.raises(Failure, match="^Trying failed: no luck"):
        environment._run("Trying", [sys.executable, "-c", "raise SystemExit('no luck')"], tmp_path / "build.log")


def test_wrong_python():
    assert says(dev("serve", before="sys.version_info = (3, 9, 1)"), "needs Python 3.10 or later; this is Python 3.9.")


def test_missing_comfyui(tmp_path):
    assert says(dev("serve", "--comfyui", str(tmp_path / "no")), "main.py is missing there")
    assert says(dev("serve", COMFYUI_PATH=str(tmp_path)), "main.py is missing there")


def test_a_comfyui_without_our_extras(tmp_path):
    (tmp_path / "main.py").touch()
    python = environment._python(tmp_path / "venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    assert python.exists()
    assert says(dev("demo", "--comfyui", str(tmp_path)), "has no scikit-image, which the baselines of the demo need")
    assert says(dev("test", "--comfyui", str(tmp_path)), "has no pytest, which the tests need")


def test_missing_benchmark():
    assert says(dev("bench", "nothing"), "There is no benchmarks/nothing.py")


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert says(dev("serve", COMFYUI_PATH="", POSTERIOR_CACHE=str(tmp_path / "file")), "cannot be built in")


def test_taken_port(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert not port_is_free(port) and free_port(port) != port
        with pytest.raises(Failure, match=f"^Port {port} is taken"):
            Server(HERE, base=tmp_path, port=port, cpu=True).start()


def test_a_host_that_does_not_start_shows_its_last_lines(tmp_path):
    (tmp_path / "main.py").write_text("raise SystemExit('the host is broken')")
    broken = environment.Environment(Path(sys.executable), tmp_path, (), ours=False)
    with pytest.raises(Failure, match="the host is broken"):
        Server(broken, base=tmp_path / "base", cpu=True).start()


def test_a_pack_that_fails_to_import_is_reported(tmp_path):
    server = Server(HERE, base=tmp_path, cpu=True)
    path = "/somewhere/custom_nodes/posterior"
    why = "No module named 'x'"
    for cause in (f"Cannot import {path} module for custom nodes", f"Error while calling comfy_entrypoint in {path}"):
        server.log_file.write_text(f"{cause}: {why}\nImport times:\n   0.1 seconds (IMPORT FAILED): {path}\n")
        with pytest.raises(Failure, match=f"could not import the pack: {why}$"):
            server._check_pack()
    server.log_file.write_text(f"   0.1 seconds: {path}\n   0.0 seconds (IMPORT FAILED): {path}_other\n")
    server._check_pack()


def test_the_host_ends_with_its_parent(tmp_path):
    (tmp_path / "main.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(3600)")
    command = [sys.executable, str(CLONE / "tools" / "launch.py"), str(tmp_path / "main.py")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline().strip() == b"up"
    process.stdin.close()
    assert process.wait(600) == 0


def test_model_folders_keep_the_layout_of_comfyui(tmp_path):
    (tmp_path / "loras").mkdir()
    expected = {"models0": {"base_path": str(tmp_path), "loras": "loras"}}
    assert json.loads(_model_paths((tmp_path, tmp_path / "missing"))) == expected
