"""Every node explains itself: names, tooltips, defaults, and a help page that the editor finds."""

from __future__ import annotations

import re
from typing import Any

from posterior.tools.server import CLONE, Server
from posterior.tools.workflow import WIDGETS


def our_nodes(server: Server) -> dict[str, dict[str, Any]]:
    nodes = server.object_info()
    return {key: node for key, node in nodes.items() if node["python_module"] == "custom_nodes.posterior"}


def faults(identity: str, node: dict[str, Any]) -> list[str]:
    """What a node leaves unsaid."""
    found = []
    if not identity.startswith("Posterior") or not node["category"].startswith("posterior/"):
        found.append("id or category")
    if node["display_name"] in ("", identity):
        found.append("display name")
    if not node["description"].endswith("."):
        found.append("description")
    for name, spec in {**node["input"].get("required", {}), **node["input"].get("optional", {})}.items():
        kind, options = spec[0], spec[1] if len(spec) > 1 else {}
        if not options.get("tooltip"):
            found.append(f"tooltip of {name}")
        widget = kind if isinstance(kind, str) else "COMBO"
        if widget in WIDGETS - {"COMBO"} and "default" not in options:  # a choice starts with its first
            found.append(f"default of {name}")
        if widget == "COMBO" and "default" in options and options["default"] not in options["options"]:
            found.append(f"default of {name} is no choice")
    return [f"{identity}: {fault}" for fault in found]


def test_every_node_explains_itself(server: Server):
    nodes = our_nodes(server)
    assert len(nodes) > 20
    found = [fault for key, node in nodes.items() for fault in faults(key, node)]
    assert not found, "\n".join(found)
    names = [node["display_name"] for node in nodes.values()]
    assert len(names) == len(set(names))


def test_every_node_has_a_help_page_and_no_page_is_left_over(server: Server):
    pages = {path.stem: path for path in (CLONE / "web" / "docs").glob("*.md")}
    nodes = our_nodes(server)
    assert sorted(set(nodes) - set(pages)) == [], "nodes without a page in web/docs"
    assert sorted(set(pages) - set(nodes)) == [], "pages without a node"
    for key, path in pages.items():
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {nodes[key]['display_name']}\n"), f"{path.name}: its title is not the node's name"
        assert server.request(f"/extensions/posterior/docs/{key}.md").decode("utf-8") == text
        inputs = {**nodes[key]["input"].get("required", {}), **nodes[key]["input"].get("optional", {})}
        silent = [name for name in inputs if not re.search(rf"\b{re.escape(name)}\b", text)]
        assert not silent, f"{path.name} does not speak of {', '.join(silent)}"


#: names in brackets that are the host's own
HOSTS = {"Export (API)"}


def test_help_pages_name_nodes_and_starting_values_as_they_are(server: Server):
    nodes = our_nodes(server)
    names = {node["display_name"] for node in nodes.values()} | HOSTS
    for page in (*(CLONE / "web" / "docs").glob("*.md"), *(CLONE / "docs").glob("*.md"), CLONE / "README.md"):
        named = re.findall(r"(?<!\*)\*([A-Z][\w -]+ \([\w, -]+\))\*(?!\*)", page.read_text(encoding="utf-8"))
        assert set(named) <= names, f"{page.name}: {set(named) - names}"
    for key, node in nodes.items():
        text = (CLONE / "web" / "docs" / f"{key}.md").read_text(encoding="utf-8")
        for name, spec in {**node["input"].get("required", {}), **node["input"].get("optional", {})}.items():
            told = re.search(rf"^(?:\| {name} \|[^\n]*|[-*] \*\*{name}\*\*.*?(?=\n[-*#]|\n\n))", text, re.M | re.S)
            # a number that depends on others ("1000 / steps") is no default
            starts = re.findall(r"Start\s+with (-?\d+(?:\.\d+)?)(?! /)\b", told[0]) if told else []
            assert all(float(start) == spec[1]["default"] for start in starts), f"{key}: {name} starts with {starts}"


def test_sources_are_ascii():
    """Some consoles and editors of our users cannot show more."""
    folders = ("guidance", "host", "nodes", "operators", "photos", "priors", "samplers", "tests", "tools", "benchmarks")
    sources = [path for folder in folders for path in (CLONE / folder).rglob("*.py")] + list(CLONE.glob("*.py"))
    assert [str(path) for path in sources if not path.read_bytes().isascii()] == []
