"""Makes data/text/home_assistant.tsv.xz, English interface text with Spanish translations, from Home Assistant's wheel.

pip download homeassistant==2026.2.3 --no-deps --only-binary :all: --python-version 3.13.2
python -m airank_fast.sources.home_assistant homeassistant-2026.2.3-py3-none-any.whl home_assistant.tsv.xz

A line is COMPONENT TAB ENGLISH TAB SPANISH, in the order of the English texts; the component is empty where several
have the text. Kept are texts of one line without links and markup, of LEAST_SOURCE to MOST_SOURCE words in English and
LEAST_TARGET to MOST_TARGET in Spanish, that were translated at all, each English text once with its most frequent
translation. The lines of the notice begin with a space.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import re
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from airank_fast.errors import require

SHA256 = "8167820cac4b8defe895fd2c36ac23402a445d1fe6028e8cde24caabb935282c"  # of the wheel
LEAST_SOURCE, MOST_SOURCE = 3, 10
LEAST_TARGET, MOST_TARGET = 2, 12
NOTICE = """\
Interface text of Home Assistant 2026.2.3, https://www.home-assistant.io, by The Home Assistant Authors.
Licensed under the Apache License, Version 2.0, http://www.apache.org/licenses/LICENSE-2.0.
Changed: the strings of homeassistant/components/*/translations/{en,es}.json were selected and joined to pairs.
"""
_MARKUP = re.compile(r"https?:|www\.|[<>\[\]|`*\\#\n\r\t]|\(/|\{\{|\}\}")


class Pair(NamedTuple):
    """An English text, its Spanish translation, and the one component that has it; "" if several have it."""

    component: str
    source: str
    target: str


def strings(content: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each string of nested objects, with the keys that lead to it."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from strings(value, (*path, key))
        elif isinstance(value, str):
            yield (*path, key), value


def is_kept(source: str, target: str) -> bool:
    """Whether a pair has the lengths and the form that is kept."""
    lengths = len(source.split()), len(target.split())
    fits = LEAST_SOURCE <= lengths[0] <= MOST_SOURCE and LEAST_TARGET <= lengths[1] <= MOST_TARGET
    return fits and source != target and not (_MARKUP.search(source) or _MARKUP.search(target))


def pairs(files: Mapping[str, tuple[dict, dict]]) -> list[Pair]:
    """The pairs of {component: (English strings, Spanish strings)}, by their English texts."""
    translations: dict[str, Counter[str]] = defaultdict(Counter)
    components: dict[str, set[str]] = defaultdict(set)
    for component, (english, spanish) in sorted(files.items()):
        of_keys = dict(strings(spanish))
        for key, text in strings(english):
            source, target = (" ".join(each.split(" ")).strip() for each in (text, of_keys.get(key, "")))
            if is_kept(source, target):
                translations[source][target] += 1
                components[source].add(component)
    found = []
    for source, counts in sorted(translations.items()):
        target = min(counts, key=lambda each: (-counts[each], each))
        component = next(iter(components[source])) if len(components[source]) == 1 else ""
        found.append(Pair(component, source, target))
    return found


def read(wheel: Path) -> dict[str, tuple[dict, dict]]:
    """{component: (English strings, Spanish strings)} of the wheel."""
    found = {}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name in sorted(names):
            path = PurePosixPath(name)
            if path.match("homeassistant/components/*/translations/en.json"):
                both = (name, str(path.with_name("es.json")))
                if both[1] in names:
                    english, spanish = (json.loads(archive.read(each)) for each in both)
                    found[path.parts[2]] = english, spanish
    return found


def convert(found: list[Pair]) -> str:
    """The text of home_assistant.tsv.xz."""
    notice = (f" {line}\n" for line in NOTICE.splitlines())
    return "".join((*notice, *("\t".join(pair) + "\n" for pair in found)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    found = hashlib.sha256(arguments.wheel.read_bytes()).hexdigest()
    require(found == SHA256, arguments.wheel.name, f"homeassistant 2026.2.3, of SHA-256 {SHA256}", found)
    text = convert(pairs(read(arguments.wheel))).encode()
    arguments.target.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    return 0


if __name__ == "__main__":
    sys.exit(main())
