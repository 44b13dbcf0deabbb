"""Pairs from a wheel of Home Assistant's translations: a small one, made here."""

from __future__ import annotations

import json
import sys
import zipfile
from unittest import mock

import pytest

from airank_fast.errors import UserError
from airank_fast.sources import home_assistant
from airank_fast.sources.home_assistant import Pair

STRINGS = {
    "light": (
        {"a": {"name": "Turn on the light", "link": "See [here](http://x.y) for more"}, "b": "Set up {name}"},
        {
            "a": {"name": "Enciende la luz", "link": "Ver [aqu\u00ed](http://x.y) para m\u00e1s"},
            "b": "Configura {name}",
        },
    ),
    "lock": (
        {"a": {"name": "Turn on the light"}, "b": "The door is open", "c": "Only in English", "d": "OK"},
        {"a": {"name": "Enciende la luz"}, "b": "La puerta est\u00e1 abierta", "d": "Vale"},
    ),
    "fan": (
        {"a": "Turn on the light", "b": "Same in both languages", "c": 5},
        {"a": "Encender la luz", "b": "Same in both languages", "c": 5},
    ),
}


def wheel(path):
    with zipfile.ZipFile(path, "w") as archive:
        for component, both in STRINGS.items():
            for language, content in zip(("en", "es"), both, strict=True):
                name = f"homeassistant/components/{component}/translations/{language}.json"
                archive.writestr(name, json.dumps(content))
        archive.writestr("homeassistant/components/alone/translations/en.json", '{"a": "No Spanish at all"}')
        archive.writestr("homeassistant/strings.json", "{}")
    return path


def test_pairs_of_kept_lengths_with_their_most_frequent_translation(tmp_path):
    found = home_assistant.pairs(home_assistant.read(wheel(tmp_path / "a.whl")))
    assert found == [
        Pair("light", "Set up {name}", "Configura {name}"),
        Pair("lock", "The door is open", "La puerta est\u00e1 abierta"),
        Pair("", "Turn on the light", "Enciende la luz"),
    ]
    lines = home_assistant.convert(found).splitlines()
    assert all(line.startswith(" ") for line in lines[:-3])
    assert lines[-3:] == ["\t".join(pair) for pair in found]


def test_another_wheel(tmp_path):
    arguments = ["home_assistant", str(wheel(tmp_path / "a.whl")), str(tmp_path / "out")]
    expected = pytest.raises(UserError, match=r"a.whl: must be homeassistant 2026.2.3, of SHA-256 8167820c")
    with mock.patch.object(sys, "argv", arguments), expected:
        home_assistant.main()
