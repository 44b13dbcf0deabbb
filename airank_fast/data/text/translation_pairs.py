"""Pairs of a sentence and its translation: two text files with a sentence a line, the same line numbers in both."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from airank_fast.data.text.query_pairs import Readable, bounded_lines, decoded
from airank_fast.errors import UserError, require


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


class Names(NamedTuple):
    """How two aligned files are called in messages."""

    source: str
    target: str


def read_pairs(source: Path, target: Path, *, skip_corrupt: bool = False) -> tuple[list[Pair], list[tuple[str, str]]]:
    """The pairs of two files, UTF-8 with LF or CRLF, and [(where, why)] of the lines that skip_corrupt leaves out.

    UserError, with the number of the line, for bytes that are not UTF-8, an empty line, or more than 64 KiB; and for
    files of different numbers of lines, or without one.
    """
    for path in (source, target):
        require(path.is_file(), str(path), "a text file with a sentence a line", "no file")
    pairs, corrupt = [], []
    names = Names(str(source), str(target))
    with open(source, "rb") as first, open(target, "rb") as second:
        for number, lines in aligned_lines(first, second, names):
            try:
                pairs.append(parse(lines, number, names))
            except UserError as error:
                if not skip_corrupt:
                    raise
                where, _, why = str(error).partition(": ")
                corrupt.append((where, why))
    require(pairs, str(source), "a text file with a sentence a line", "none" if corrupt else "an empty file")
    return pairs, corrupt


def aligned_lines(source: Readable, target: Readable, names: Names) -> Iterator[tuple[int, tuple[bytes, bytes]]]:
    """(number from 1 on, lines) of both files; UserError for files of different numbers of lines."""
    number, rest = 0, [0, 0]
    for lines in zip_longest(bounded_lines(source), bounded_lines(target)):
        if None in lines:
            rest = [count + (line is not None) for count, line in zip(rest, lines, strict=True)]
        else:
            number += 1
            yield number, lines
    what = f"as many lines as {names.source}, {number + rest[0]:,}"
    require(rest == [0, 0], names.target, what, f"{number + rest[1]:,}")


def parse(lines: tuple[bytes, bytes], number: int, names: Names, *, may_be_empty: bool = False) -> Pair:
    """The pair of two lines, without white space around; UserError, with the file and the number of the line.

    That is for other bytes than UTF-8, a line of more than 64 KiB and, unless it may be, an empty one.
    """
    texts = []
    for line, name in zip(lines, names, strict=True):
        where = f"{name}, line {number}"
        texts.append(decoded(line, where).strip())
        require(may_be_empty or texts[-1], where, "a sentence", "an empty line")
    return Pair(*texts)
