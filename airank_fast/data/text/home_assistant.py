"""The text that comes with the package for translation: 12,485 strings of Home Assistant's interface in English and
Spanish.

Source: Home Assistant 2026.2.3, The Home Assistant Authors, https://www.home-assistant.io, licensed under the Apache
License, Version 2.0, http://www.apache.org/licenses/LICENSE-2.0. `home_assistant.tsv.xz` holds this notice, in lines
that begin with a space, and then a pair a line; `python -m airank_fast.sources.home_assistant`, which says what is
kept, makes it. English texts have 3 to 10 words, and each is there once.
"""

from __future__ import annotations

import lzma
import re
import zlib
from pathlib import Path
from typing import Literal

from airank_fast.data.text.translation_pairs import Pair

NAME = "Home Assistant's interface text, English to Spanish (Apache-2.0)"
FILE = Path(__file__).with_name("home_assistant.tsv.xz")
Split = Literal["text", "component"]
_HELD_OUT = 5  # of 100
_VARIABLE = re.compile(r"(?:\{[^}]*\}|[\W\d_])+")


def load(split: Split = "text") -> tuple[list[Pair], list[Pair]]:
    """(train, held out) pairs.

    text: by the English text without placeholders, digits, punctuation and case, so that texts which differ in these
    alone are on one side. component: the texts that belong to the held-out components alone are held out; this is
    stricter, as texts of one component have much in common.
    """
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for line in lzma.decompress(FILE.read_bytes()).decode().splitlines():
        if not line.startswith(" "):
            component, source, target = line.split("\t")
            key = component if split == "component" else normal_form(source)
            sides[bool(key) and zlib.crc32(key.encode()) % 100 < _HELD_OUT].append(Pair(source, target))
    return sides


def normal_form(text: str) -> str:
    """A text without placeholders, digits, punctuation and case: "Turn on {name} 2!" gives "turn on"."""
    return " ".join(_VARIABLE.sub(" ", text).lower().split())
