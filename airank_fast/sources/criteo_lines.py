"""Lines of Criteo's click logs as rows: LABEL, 13 integers and 26 categories with tabs between them, empty if missing.

The hash of a category is the same on every machine: h = 0, and for each word h = mix(h + word), modulo 2^64, with
splitmix64's step and mix. The first word is the number of the slot, 1 to 26; the others are the category's bytes, eight
a word, the first byte in the lowest bits, with zeros behind the last. The upper 32 bits of h are kept. So a missing
category is a category of its own, and equal texts in two slots are two categories.

`parse` calls csrc/host/criteo.h where it is built. `parse_line` reads one line, and has the message for a bad one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from airank_fast.data.host import host
from airank_fast.data.tables.criteo import MISSING, NUM_CATEGORIES, NUM_COLUMNS, NUM_NUMBERS
from airank_fast.errors import require

MOST_BYTES = 65_536  # of a line, without its end
_INTEGER = re.compile(rb"-?[0-9]+")
_MASK = 2**64 - 1


class Parsed(NamedTuple):
    """Rows that were written, and the byte behind the last line of them."""

    rows: int
    end: int


def parse(text: bytes, begin: int, rows: np.ndarray, first: int) -> Parsed:
    """Lines from byte `begin` of `text` on, into `rows` [n] of dtype ROW, from row `first` on.

    `text` ends with a line feed. Ends behind the last line, or where `rows` is full, or before a line that is not of
    the published form.
    """
    words = rows.view(np.int32).reshape(-1, NUM_COLUMNS)
    if host is not None:
        return Parsed(*host.parse_criteo(text, begin, words, first))
    return parse_reference(text, begin, words, first)


def parse_reference(text: bytes, begin: int, words: np.ndarray, first: int) -> Parsed:
    """`parse` in Python; words: int32 [n, 40]."""
    number = first
    while number < len(words) and begin < len(text):
        end = text.index(b"\n", begin) + 1
        try:
            words[number] = parse_line(text[begin:end], "line")
        except ValueError:
            break
        number, begin = number + 1, end
    return Parsed(number - first, begin)


def parse_line(line: bytes, where: str) -> np.ndarray:
    """The row of a line, with its end or without: int32 [40]. UserError under the name `where`."""
    line = line.removesuffix(b"\n")
    require(len(line) <= MOST_BYTES, where, f"a line of at most {MOST_BYTES:,} bytes", "a longer one")
    columns = line.removesuffix(b"\r").split(b"\t")
    what = f"a line of {NUM_COLUMNS} columns (label, {NUM_NUMBERS} integers, {NUM_CATEGORIES} categories)"
    require(len(columns) == NUM_COLUMNS, where, what, f"{len(columns)} columns" if line.strip() else "an empty line")
    label, numbers, categories = columns[0], columns[1 : 1 + NUM_NUMBERS], columns[1 + NUM_NUMBERS :]
    require(label in (b"0", b"1"), where, "a line with a label of 0 or 1", _shown(label))
    values = [int(label)]
    for column, text in enumerate(numbers, 2):
        sound = text == b"" or (_INTEGER.fullmatch(text) and len(text) < 32 and abs(int(text)) < 2**31)
        require(sound, where, f"a line with an integer of 32 bits in column {column}", _shown(text))
        values.append(int(text) if text else MISSING)
    hashes = [category_hash(text, slot) for slot, text in enumerate(categories, 1)]
    return np.array([*values, *hashes], np.int64).astype(np.uint32).view(np.int32)


def category_hash(text: bytes, slot: int) -> int:
    """The hash of a category in slot 1 ... 26, in [0, 2^32)."""
    words = (int.from_bytes(text[at : at + 8], "little") for at in range(0, len(text), 8))
    h = 0
    for word in (slot, *words):
        h = _mix((h + word) & _MASK)
    return h >> 32


def _mix(h: int) -> int:
    h = (h + 0x9E3779B97F4A7C15) & _MASK
    h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & _MASK
    return h ^ (h >> 31)


def _shown(text: bytes) -> str:
    """The beginning of a column, quoted."""
    return repr(text[:20].decode("utf-8", "replace"))
