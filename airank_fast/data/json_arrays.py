"""Reads the elements of large JSON files one by one, such as COCO's annotations, of which the largest has 450 MB.

    for name, element in json_arrays(path, ("images", "annotations")): ...

The file is an object; of its values, the arrays of these names are never in memory as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from airank_fast.errors import UserError

_CHUNK = 1 << 22  # characters
_LONGEST = 1 << 27  # of an element
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def json_arrays(path: Path, names: Collection[str]) -> Iterator[tuple[str, Any]]:
    """(name, element) of these arrays, in the order of the file.

    UserError: the file is no JSON object, one of the arrays is absent or no array, the file ends early; it has the
    position.
    """
    missing = set(names)
    with open(path, encoding="utf-8-sig") as file:
        text = _Text(path, file)
        text.take("{")
        while (name := text.value()) is not None and text.take(":"):
            if name not in names:
                text.value()
            else:
                missing.discard(name)
                text.take("[")
                if text.peek() == "]":
                    text.take("]")
                else:
                    yield name, text.value()
                    while text.take(",]") == ",":
                        yield name, text.value()
            if text.take(",}") == "}":
                break
        if text.peek():
            raise text.error("the end of the file")
    if missing:
        what = ", ".join(f'"{name}"' for name in sorted(missing))
        raise UserError(f"{path}: must be a JSON object with the arrays {what}, got none")


class _Text:
    """The text of a file from a place on."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self.file = path, file
        self.buffer, self.at, self.dropped = "", 0, 0

    def fill(self) -> bool:
        """Read on; False at the end of the file."""
        try:
            more = self.file.read(_CHUNK)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: must be UTF-8, got byte 0x{error.object[error.start]:02X}") from None
        self.buffer, self.dropped, self.at = self.buffer[self.at :] + more, self.dropped + self.at, 0
        return bool(more)

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            match = _SPACE.match(self.buffer, self.at)
            assert match is not None
            self.at = match.end()
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self.fill():
                return ""

    def take(self, expected: str) -> str:
        """The next character, which must be one of these."""
        found = self.peek()
        if not found or found not in expected:
            raise self.error(" or ".join(expected))
        self.at += 1
        return found

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.buffer, self.at)
            except (json.JSONDecodeError, RecursionError) as error:
                if len(self.buffer) - self.at > _LONGEST or not self.fill():
                    self.at = min(len(self.buffer), getattr(error, "pos", self.at))
                    raise self.error("whole JSON") from None
            else:
                if end == len(self.buffer) and self.fill():  # a number may go on
                    continue
                self.at = end
                return value

    def error(self, what: str) -> UserError:
        """What is here in place of `what`."""
        there = self.buffer[self.at : self.at + 20]
        got = f"{there!r}" if there else "the end of the file"
        place = f"{self.path}, character {self.dropped + self.at:,}"
        end = f"; the file ends at character {self.dropped + len(self.buffer):,}" if there and not self.fill() else ""
        return UserError(f"{place}: must be {what}, got {got}{end}")
