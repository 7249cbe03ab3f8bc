from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def _register() -> None:
    path = Path(__file__).resolve().parent.parent / "tools" / "package.py"
    spec = importlib.util.spec_from_file_location("_posterior_package", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.register()


_register()


@pytest.fixture(scope="session")
def server() -> Iterator[Any]:
    """A real ComfyUI server with this pack, one per test session (posterior.tools.server.Server)."""
    from posterior.tools import environment
    from posterior.tools.server import Server

    server = Server(environment.get(os.environ.get("COMFYUI_PATH")), cpu=True)
    shutil.copytree(Path(__file__).parent / "server_nodes", server.base / "custom_nodes")
    with server as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Headless Chromium (a playwright Browser); where there is none, the test is skipped, except in CI."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("browser tests need Chromium, which is not installed")
    from playwright.sync_api import sync_playwright

    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
    playwright = sync_playwright().start()
    browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", *quiet])
    yield browser
    if not _interrupted:
        browser.close()
        playwright.stop()


@pytest.fixture(scope="session")
def open_page(server: Any, chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages of fresh browser profiles (playwright's settings of a context) with the server's frontend loaded."""
    contexts = []

    def opened(**settings: Any) -> Any:
        contexts.append(chromium.new_context(viewport={"width": 1600, "height": 1000}, **settings))
        contexts[-1].set_default_timeout(60_000)
        page = contexts[-1].new_page()
        server.post("/settings/Comfy.TutorialCompleted", True)  # else the templates open by themselves, some time later
        page.goto(server.url)
        # the frontend's own example comes last, in place of what is there
        page.wait_for_function("window.app?.graph?._nodes.length && app.extensionManager && app.vueAppReady")
        return page

    yield opened
    for context in contexts if not _interrupted else ():
        context.close()


@pytest.fixture(scope="session")
def editor(open_page: Callable[..., Any]) -> Any:
    """A page with the server's frontend loaded (a playwright Page), one per test session."""
    return open_page()


@pytest.fixture
def page(editor: Any) -> Any:
    """The session's page with an empty graph; a test that opens panels takes one of its own from open_page."""
    editor.evaluate("app.graph.clear()")
    return editor


_interrupted: list[bool] = []


def pytest_keyboard_interrupt() -> None:
    """A Ctrl-C ends the browser's driver as well: nothing must wait for its answers any more."""
    _interrupted.append(True)


@pytest.fixture(scope="session")
def host() -> Any:
    """The host's own loaders, nodes and samplers in this process (inside_host.Host); imported once."""
    from inside_host import Host

    from posterior.tools import environment

    return Host(environment.get(os.environ.get("COMFYUI_PATH")))
