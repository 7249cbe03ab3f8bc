"""Every node in every language: nothing missing, nothing left over, numbers and choices as in English."""

from __future__ import annotations

import pytest

from posterior.tools.locales import dictionary, faults, languages, read, said, translate
from posterior.tools.server import Server
from posterior.tools.workflow import inputs_of

LANGUAGES = languages()


def test_english_is_what_the_nodes_say(server: Server):
    now, written = said(server.object_info()), read("en")
    changed = [".".join(path) for path in {**now, **written} if now.get(path) != written.get(path)]
    assert not changed, "run tools/locales.py:\n" + "\n".join(changed)
    assert not faults(now, now)


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_missing_or_stale(language):
    found = faults(read("en"), read(language))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("language", LANGUAGES)
def test_choices_keep_their_names(server: Server, language):
    """They are ids: a tooltip that explains one calls it as the widget does."""
    texts = read(language)
    for key, node in server.object_info().items():
        if node["python_module"] != "custom_nodes.posterior":
            continue
        for name, kind, options in inputs_of(node):
            tooltip = texts["nodeDefs", key, "inputs", name, "tooltip"]
            for choice in options["options"] if kind == "COMBO" else ():
                if f"{choice}:" in options["tooltip"] or f"Start with {choice}" in options["tooltip"]:
                    assert str(choice) in tooltip, (key, name, choice)


def test_the_host_gives_them_to_the_frontend(server: Server):
    given = server.get("/i18n")
    for language in ("en", *LANGUAGES):
        for path, text in read(language).items():
            place = given[language]
            for key in path if path[0] == "nodeDefs" else path[1:]:
                place = place[key]
            assert place == text, path


def test_a_text_that_changed_loses_its_translation_and_no_other():
    english = {("a",): "two", ("b",): "two", ("c",): "3 pixels"}
    german = {("a",): "zwei", ("b",): "zwei", ("c",): "3 Pixel"}
    assert faults(english, german) == []
    now = {**english, ("b",): "2", ("d",): "3 pixels"}
    moved = translate(now, dictionary(english, german))
    assert moved == {("a",): "zwei", ("c",): "3 Pixel", ("d",): "3 Pixel"}
    assert faults(now, moved) == ["b: not translated"]
    assert faults(english, {**german, ("c",): "4 Pixel"}) == ["c: has other numbers than the English"]
    assert faults(english, {**german, ("a",): "beide"}) == ["a: translated in two ways"]
    assert faults(english, {**german, ("e",): "mehr"}) == ["e: no node says this"]
    assert faults(english, {**german, ("c",): "3 Pixel | mehr"}) == ["c: has one of @ { } |"]
