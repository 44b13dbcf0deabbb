"""Pictures of text lines with their texts, as the field's data sets come: LMDBs, or a list of files.

    lines, corrupt = read_lines(Path("MJ"), Alphabet("0123456789"))
    lines.picture(7), lines.targets(np.array([7]))          # its file or content; its classes

An LMDB has the keys num-samples, image-000000001, label-000000001 and so on (clovaai/deep-text-recognition-benchmark).
A list has lines PATH TAB TEXT, with paths relative to its folder.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from airank_fast.data.images.image_folder import why_corrupt
from airank_fast.data.sampling import is_held_out
from airank_fast.data.text.alphabet import Alphabet
from airank_fast.errors import UserError, require
from airank_fast.walk import entries, walk

DATABASE = "data.mdb"  # in the folder of an LMDB
_HOLD_OUT = 10  # one line in ten
_SCHEMA = "an LMDB with the keys num-samples, image-000000001, label-000000001, ..."


class Source(Protocol):
    """Lines of one file or LMDB, by number from 0 on."""

    def __len__(self) -> int: ...
    def where(self, number: int) -> str:
        """The line's place, for a message."""

    def text(self, number: int) -> str:
        """The line's text; UserError for a line that has none or no picture."""

    def picture(self, number: int) -> str | bytes:
        """The path of the line's picture, or its content."""

    def close(self) -> None:
        """Close what is open, before processes fork; a later access opens it again."""


class ListFile:
    """The lines PATH TAB TEXT of a file, UTF-8 with LF or CRLF; paths are relative to its folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        ends = np.flatnonzero(np.frombuffer(self._content, np.uint8) == ord("\n"))
        if self._content and not self._content.endswith(b"\n"):
            ends = np.append(ends, len(self._content))
        self._ends = ends
        require(len(ends), str(path), "a list of lines PATH TAB TEXT", "an empty file")

    def __len__(self) -> int:
        return len(self._ends)

    def where(self, number: int) -> str:
        """The line's number in the file."""
        return f"{self._path}, line {number + 1}"

    def text(self, number: int) -> str:
        """The second column; UserError for another number of columns, other bytes than UTF-8, and a missing picture."""
        where = self.where(number)
        try:
            columns = self._line(number).decode("utf-8").split("\t")
        except UnicodeDecodeError as error:
            got = f"byte 0x{error.object[error.start]:02X} at position {error.start + 1}"
            raise UserError(f"{where}: must be UTF-8, got {got}") from None
        require(len(columns) == 2, where, "a line PATH TAB TEXT", f"{len(columns)} columns")
        path = self.picture(number)
        require(os.path.isfile(path), where, "a line with the path of a picture", f"{path}, which is no file")
        return columns[1]

    def picture(self, number: int) -> str:
        """The path in the first column."""
        return os.path.join(self._path.parent, os.fsdecode(self._line(number).partition(b"\t")[0]))

    def close(self) -> None:
        """Nothing is open."""

    def _line(self, number: int) -> bytes:
        start = self._ends[number - 1] + 1 if number else 0
        return self._content[start : self._ends[number]].removesuffix(b"\r")


class Database:
    """The lines of an LMDB. UserError where the package lmdb is missing, and for a database of other keys."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment: Any = None

    def __len__(self) -> int:
        number = self._get(b"num-samples")
        if number is None:
            with self._opened.begin() as transaction, transaction.cursor() as cursor:
                keys = [repr(key[:40])[2:-1] for key, _ in zip(cursor.iternext(values=False), range(3), strict=False)]
            raise UserError(f"{self._folder}: must be {_SCHEMA}, got {', '.join(keys) + ', ...' if keys else 'no key'}")
        num_keys = self._opened.stat()["entries"]
        is_number = number.isdigit() and len(number) < 20 and 0 < int(number) < num_keys
        require(is_number, str(self._folder), "an LMDB with lines", f"num-samples {number[:20]!r} and {num_keys} keys")
        return int(number)

    def where(self, number: int) -> str:
        """The key of the picture."""
        return f"{self._folder}, image-{number + 1:09d}"

    def text(self, number: int) -> str:
        """UserError where a key is missing, and for other bytes than UTF-8."""
        where, label = self.where(number), self._get(b"label-%09d" % (number + 1))
        require(label is not None, where, _SCHEMA, f"no label-{number + 1:09d}")
        with self._opened.begin(buffers=True) as transaction:  # the content is not copied
            has_picture = transaction.get(b"image-%09d" % (number + 1)) is not None
        require(has_picture, where, _SCHEMA, "no such key")
        try:
            return label.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: must be UTF-8, got byte 0x{label[error.start]:02X} in its label") from None

    def picture(self, number: int) -> bytes:
        """The content of the picture's file."""
        return self._get(b"image-%09d" % (number + 1)) or b""

    def close(self) -> None:
        """A process that is forked from one in which the LMDB is open could not open it."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def _get(self, key: bytes) -> Any:
        with self._opened.begin() as transaction:
            return transaction.get(key)

    @property
    def _opened(self) -> Any:
        if self._environment is None:
            try:
                import lmdb
            except ImportError:
                install = "none (pip install lmdb)"
                raise UserError(f"{self._folder}: must have the package lmdb, got {install}") from None
            options = {"readonly": True, "create": False, "lock": False, "readahead": False, "meminit": False}
            try:
                environment = lmdb.open(str(self._folder), **options)
            except lmdb.Error as error:
                raise UserError(f"{self._folder}: must be {_SCHEMA}, got {error}") from None
            whole = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
            size = (self._folder / DATABASE).stat().st_size
            if size < whole:  # reading a page that is not there would be a bus error
                environment.close()
                raise UserError(f"{self._folder}: must have a whole {DATABASE}, of {whole} bytes, got {size}")
            self._environment = environment
        return self._environment


@dataclass(frozen=True, eq=False)
class Lines:
    """n lines of text.

    source: int32 [n], numbers in `sources`; number: int64 [n], of the line in its source. classes: int32, of all texts,
    one behind the other; offsets: int64 [n + 1], where each begins.
    """

    sources: Sequence[Source]
    source: np.ndarray
    number: np.ndarray
    classes: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    def where(self, line: int) -> str:
        """The line's place, for a message."""
        return self.sources[self.source[line]].where(int(self.number[line]))

    def picture(self, line: int) -> str | bytes:
        """The path of the line's picture, or its content."""
        return self.sources[self.source[line]].picture(int(self.number[line]))

    def targets(self, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The classes of these lines, int32, one behind the other, and their lengths, int64 [b]."""
        lengths = self.offsets[lines + 1] - self.offsets[lines]
        shifts = self.offsets[lines] - (lengths.cumsum() - lengths)
        return self.classes[np.repeat(shifts, lengths) + np.arange(lengths.sum())], lengths

    @cached_property
    def steps(self) -> np.ndarray:
        """The fewest steps in which CTC can write each text, int64 [n]: a blank stands between equal characters."""
        is_equal = np.zeros(len(self.classes), np.int64)
        is_equal[1:] = self.classes[1:] == self.classes[:-1]
        is_equal[self.offsets[:-1]] = 0
        return np.diff(self.offsets) + np.add.reduceat(is_equal, self.offsets[:-1])

    def take(self, lines: np.ndarray) -> Lines:
        """These lines alone."""
        classes, lengths = self.targets(lines)
        offsets = np.concatenate([[0], lengths.cumsum()])
        return replace(self, source=self.source[lines], number=self.number[lines], classes=classes, offsets=offsets)

    def split(self) -> tuple[Lines, Lines]:
        """(train, held out): one line in ten is held out, by a hash of its source and number."""
        is_out = [is_held_out(b"%d %d" % each, _HOLD_OUT) for each in zip(self.source, self.number, strict=True)]
        return self.take(np.flatnonzero(~np.array(is_out, bool))), self.take(np.flatnonzero(is_out))

    def find_corrupt(self, num_threads: int) -> dict[int, str]:
        """Why, by line, of the pictures that cannot be decoded to their end."""
        with ThreadPoolExecutor(num_threads) as pool:  # Pillow decodes without the GIL
            reasons = pool.map(lambda line: why_corrupt(self.picture(line)), range(len(self)))
            return {line: why for line, why in enumerate(reasons) if why}

    def checksum(self) -> str:
        """SHA-256 of all texts in their order, as classes, in hex."""
        return hashlib.sha256(self.offsets.tobytes() + self.classes.tobytes()).hexdigest()


def read_lines(
    path: Path, alphabet: Alphabet, *, skip_corrupt: bool = False, num_threads: int = 1
) -> tuple[Lines, list[tuple[str, str]]]:
    """The lines of a list, an LMDB, or a folder of LMDBs, and [(where, why)] of those that skip_corrupt leaves out.

    Without skip_corrupt a UserError names the first line without a text of the alphabet or without a picture; pictures
    are not opened. With it every picture is decoded, and num_threads threads do so. UserError where no line is left.
    """
    sources: list[Source] = []
    try:
        sources.extend(_sources(path))
        return _read(sources, path, alphabet, skip_corrupt, num_threads)
    finally:
        for source in sources:
            source.close()


def _read(
    sources: list[Source], path: Path, alphabet: Alphabet, skip_corrupt: bool, num_threads: int
) -> tuple[Lines, list[tuple[str, str]]]:
    corrupt: list[tuple[str, str]] = []
    source_of, number_of, every_class, offsets = array("i"), array("q"), array("i"), array("q", [0])
    for index, source in enumerate(sources):
        for number in range(len(source)):
            where = source.where(number)
            try:
                classes = alphabet.classes(source.text(number), where)
            except UserError as error:
                if not skip_corrupt:
                    raise
                corrupt.append((where, str(error).removeprefix(f"{where}: ")))
                continue
            every_class.extend(classes)
            source_of.append(index)
            number_of.append(number)
            offsets.append(len(every_class))
    lines = Lines(sources, *map(np.array, (source_of, number_of, every_class, offsets)))
    if skip_corrupt:
        reasons = lines.find_corrupt(num_threads)
        corrupt += [(lines.where(line), why) for line, why in reasons.items()]
        lines = lines.take(np.setdiff1d(np.arange(len(lines)), [*reasons]))
    require(len(lines), str(path), "with a line that can be read", f"none of {len(corrupt)}")
    return lines, corrupt


def _sources(path: Path) -> Iterator[Source]:
    """The list, or the LMDBs at any depth of the folder; the list of a folder that has a single .txt file."""
    what = "a list of lines PATH TAB TEXT, a folder with one, an LMDB, or a folder of LMDBs"
    if path.is_file():
        yield ListFile(path)
        return
    require(path.is_dir(), str(path), what, "no file and no folder")
    databases = [Path(entry.path).parent for entry in walk(path) if entry.name == DATABASE]
    if databases:
        yield from map(Database, databases)
        return
    lists = [Path(entry.path) for entry in entries(path) if entry.name.endswith(".txt")]
    listed = ", ".join(each.name for each in lists[:3])
    require(len(lists) == 1, str(path), what, f"a folder with {listed}: name the list" if lists else "neither")
    yield ListFile(lists[0])
