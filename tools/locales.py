"""What the nodes say in other languages: locales/LANGUAGE/*.json, where the host looks for it.

    python tools/package.py posterior.tools.locales              # English anew, from the nodes
    python tools/package.py posterior.tools.locales de           # what German lacks, as JSON: {"English": ""}
    python tools/package.py posterior.tools.locales de FILE      # takes such a file, filled in or with corrections

A text and its translation stand at the same place of two files, so these are their own dictionary: what many nodes say
alike is translated once, and where the English changes, the translation goes until somebody writes a new one.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from . import environment
from .server import CLONE, Server
from .workflow import inputs_of

LOCALES = CLONE / "locales"
#: file, and path within: ("nodeDefs", "PosteriorSolve", "inputs", "steps", "tooltip")
Texts = dict[tuple[str, ...], str]
#: categories that have a name from the host
HOSTS = {"posterior", "guidance", "samplers"}
#: what the frontend takes for its own marks in a text
MARKS = re.compile(r"[@{}|]")


def languages() -> list[str]:
    """All but English."""
    return sorted({path.name for path in LOCALES.iterdir() if path.is_dir()} - {"en"})


def said(object_info: dict[str, Any]) -> Texts:
    """What our nodes say, in English."""
    found: Texts = {}
    for key, node in object_info.items():
        if node["python_module"] != "custom_nodes.posterior":
            continue
        for word in set(node["category"].split("/")) - HOSTS:
            found["main", "nodeCategories", word] = word
        found["nodeDefs", key, "display_name"] = node["display_name"]
        found["nodeDefs", key, "description"] = node["description"]
        for name, _, options in inputs_of(node):
            found["nodeDefs", key, "inputs", name, "name"] = options.get("display_name") or name
            found["nodeDefs", key, "inputs", name, "tooltip"] = options["tooltip"]
        for place, (name, tooltip) in enumerate(zip(node["output_name"], node["output_tooltips"], strict=True)):
            found["nodeDefs", key, "outputs", str(place), "name"] = name
            found["nodeDefs", key, "outputs", str(place), "tooltip"] = tooltip or ""
    return dict(sorted((path, text) for path, text in found.items() if text))


def read(language: str) -> Texts:
    found: Texts = {}

    def walk(path: tuple[str, ...], value: Any) -> None:
        if isinstance(value, str):
            found[path] = value
        else:
            for key, below in value.items():
                walk((*path, key), below)

    for file in sorted((LOCALES / language).glob("*.json")):
        walk((file.stem,), json.loads(file.read_text(encoding="utf-8")))
    return found


def write(language: str, texts: Texts) -> None:
    tree: dict[str, Any] = {}
    for (*path, last), text in texts.items():
        place = tree
        for key in path:
            place = place.setdefault(key, {})
        place[last] = text
    (LOCALES / language).mkdir(parents=True, exist_ok=True)
    for name, value in tree.items():
        text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
        (LOCALES / language / f"{name}.json").write_text(text, encoding="utf-8", newline="\n")


def dictionary(english: Texts, translated: Texts) -> dict[str, str]:
    return {english[path]: text for path, text in translated.items() if path in english}


def translate(english: Texts, words: dict[str, str]) -> Texts:
    return {path: words[text] for path, text in english.items() if words.get(text)}


def faults(english: Texts, translated: Texts) -> list[str]:
    """What is missing or left over, or cannot be right: other numbers, one text in two translations."""
    words = dictionary(english, translated)
    found = [f"{'.'.join(path)}: not translated" for path in english.keys() - translated.keys()]
    for path, text in translated.items():
        place, source = ".".join(path), english.get(path)
        if source is None:
            found.append(f"{place}: no node says this")
        elif words[source] != text:
            found.append(f"{place}: translated in two ways")
        elif _numbers(source) != _numbers(text):
            found.append(f"{place}: has other numbers than the English")
        elif MARKS.search(text):
            found.append(f"{place}: has one of @ {{ }} |")
    return sorted(found)


def _numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d+(?:\.\d+)?", text))


def main(language: str = "", file: str = "") -> None:
    if not language:
        with Server(environment.get(None), cpu=True) as server:
            now, then = said(server.object_info()), read("en")
        for each in languages():
            write(each, translate(now, dictionary(then, read(each))))
        return write("en", now)
    english = read("en")
    words = dictionary(english, read(language))
    if not file:
        gaps = {text: "" for text in english.values() if text not in words}
        return print(json.dumps(gaps, ensure_ascii=False, indent=1))
    new = json.loads(Path(file).read_text(encoding="utf-8"))
    if unknown := new.keys() - set(english.values()):
        raise SystemExit(f"No node says {sorted(unknown)[0]!r}: run this without arguments for the English of today.")
    write(language, translate(english, {**words, **new}))


if __name__ == "__main__":
    main(*sys.argv[1:])
