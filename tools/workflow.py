"""Turns a workflow as the frontend saves it into the prompt that the server takes.

Gives what the frontend's own graphToPrompt gives (tests/test_browser_workflows.py compares them), for workflows without
subgraphs and group nodes; texts with random choices ({a|b}) or %replacements% are left as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MUTED, BYPASSED = 2, 4
VIRTUAL = {"MarkdownNote", "Note", "PrimitiveNode", "Reroute"}  # live in the frontend only
WIDGETS = {"BOOLEAN", "CHART", "COLOR", "COMBO", "FLOAT", "GALLERIA", "IMAGECOMPARE", "INT", "MARKDOWN", "STRING"}
WIDGETS |= {"IMAGEUPLOAD", "TEXTAREA"}
UPLOADS = ("image_upload", "video_upload", "animated_image_upload")

Node = dict[str, Any]
Source = tuple[str, int]  # node id, output slot


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    return _Graph(workflow, object_info).prompt()


class _Graph:
    def __init__(self, workflow: dict[str, Any], object_info: dict[str, Any]) -> None:
        self.nodes: dict[int, Node] = {node["id"]: node for node in workflow["nodes"]}
        self.links: dict[int, list[Any]] = {link[0]: link for link in workflow["links"]}
        self.object_info = object_info
        unknown = {node["type"] for node in self.nodes.values()} - VIRTUAL - set(object_info)
        if unknown:
            raise ValueError(f"This server has no node {', '.join(sorted(unknown))}.")

    def prompt(self) -> dict[str, Any]:
        alive = [node for node in self.nodes.values() if node["type"] not in VIRTUAL]
        alive = [node for node in alive if node.get("mode", 0) not in (MUTED, BYPASSED)]
        ids = {str(node["id"]) for node in alive}
        return {str(node["id"]): self._entry(node, ids) for node in alive}

    def _entry(self, node: Node, alive: set[str]) -> dict[str, Any]:
        inputs = {name: {"__value__": v} if isinstance(v, list) else v for name, v in self._values(node).items()}
        for slot in self._slots(node):
            source = self._source(slot, slot["type"])
            if source is None:
                continue
            if source[0] in alive:
                inputs[slot["name"]] = list(source)
            else:  # it comes from a muted node
                inputs.pop(slot["name"], None)
        title = node.get("title") or self._definition(node)["display_name"] or node["type"]
        return {"inputs": inputs, "class_type": node["type"], "_meta": {"title": title}}

    # Widgets

    def _values(self, node: Node) -> dict[str, Any]:
        """Widget values by name: saved by position, a primitive node's value over the widget's own."""
        saved = iter(node.get("widgets_values") or [])
        values: dict[str, Any] = {}
        for name, kind, options in inputs_of(self._definition(node)):
            if _is_widget(kind, options):
                values[name] = next(saved, _default(kind, options))
                for _ in range(companions(name, kind, options)):
                    next(saved, None)
        for slot in node.get("inputs", []):
            if slot.get("link") is not None and slot["name"] in values:
                origin = self.nodes[self.links[slot["link"]][1]]
                if origin["type"] == "PrimitiveNode":
                    values[slot["name"]] = origin["widgets_values"][0]
        return values

    # Links

    def _slots(self, node: Node) -> list[dict[str, Any]]:
        """The input slots in the frontend's order: sockets, widgets, then those that no definition knows."""
        saved = {slot["name"]: slot for slot in node.get("inputs", [])}
        if node["type"] in VIRTUAL:
            return list(saved.values())
        known = [(name, kind, _is_widget(kind, options)) for name, kind, options in inputs_of(self._definition(node))]
        ordered = sorted(known, key=lambda item: item[2])
        slots = [{"name": name, "type": kind, "link": saved.pop(name, {}).get("link")} for name, kind, _ in ordered]
        return slots + list(saved.values())

    def _definition(self, node: Node) -> dict[str, Any]:
        return self.object_info[node["type"]]

    def _source(self, slot: dict[str, Any], wanted: str) -> Source | None:
        """The output that feeds this slot, through reroutes and bypassed nodes."""
        if slot.get("link") is None:
            return None
        _, origin, output, *_ = self.links[slot["link"]]
        node = self.nodes[origin]
        slots = self._slots(node)
        if node.get("mode", 0) == BYPASSED:
            through = _bypass(slots, output, node["outputs"][output]["type"], wanted)
            return self._source(through, through["type"]) if through else None
        if node["type"] in VIRTUAL:
            return self._source(slots[output], wanted) if output < len(slots) else None
        return str(origin), output


def inputs_of(definition: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, type, options) of every input, in the order that the frontend uses."""
    groups, order = definition["input"], definition.get("input_order", {})
    for group in ("required", "optional"):
        specs = groups.get(group, {})
        for name in order.get(group, specs):
            kind, options = specs[name][0], (specs[name][1] if len(specs[name]) > 1 else {})
            if isinstance(kind, list):
                kind, options = "COMBO", {"options": kind, **options}
            yield name, kind, options


def defaults(definition: dict[str, Any]) -> dict[str, Any]:
    """The values that the widgets of a new node have."""
    return {name: _default(kind, options) for name, kind, options in inputs_of(definition) if _is_widget(kind, options)}


def _is_widget(kind: str, options: dict[str, Any]) -> bool:
    return options.get("widgetType", kind) in WIDGETS and not options.get("forceInput")


def companions(name: str, kind: str, options: dict[str, Any]) -> int:
    """How many saved values follow this widget's own: those of seed controls."""
    if kind == "INT":
        return int(bool(options.get("control_after_generate", name in ("seed", "noise_seed"))))
    return 2 if kind == "COMBO" and options.get("control_after_generate") else 0


def _default(kind: str, options: dict[str, Any]) -> Any:
    if "default" in options:
        return options["default"]
    if kind == "COMBO":
        return next(iter(options.get("options", [])), None)
    return {"INT": 0, "FLOAT": 0, "BOOLEAN": False}.get(kind, "")


def _bypass(slots: list[dict[str, Any]], output: int, given: str, wanted: str) -> dict[str, Any] | None:
    """The input that a bypassed node passes on to an output."""
    if wanted in ("*", ""):
        return slots[output if output < len(slots) else 0] if slots else None
    if output < len(slots) and _fits(slots[output]["type"], given) and _fits(slots[output]["type"], wanted):
        return slots[output]
    exact = (slot for slot in slots if slot["type"] == wanted)
    fitting = (slot for slot in slots if _fits(slot["type"], given) and _fits(slot["type"], wanted))
    return next(exact, None) or next(fitting, None)


def _fits(a: str, b: str) -> bool:
    one, other = ({kind.strip().lower() for kind in str(types).split(",")} for types in (a, b))
    return bool(one & other) or "*" in one | other or "" in one | other
