"""Lines of a log of any size and state, in bounded memory: what every reader of other people's logs starts with."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from typing import BinaryIO

from airank_fast.errors import UserError

BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 20


class Lines:
    """The lines of a file as str, without their ends; `enumerate(lines, 1)` numbers them.

    UTF-8 and, with a byte order mark, UTF-16 (what PowerShell's `>` writes); LF or CRLF. At most some MiB of the
    file are held at a time. What was odd stands in `oddities` once the lines were read, each with the number of
    the first line concerned:

        bom        a byte order mark
        utf16      UTF-16
        crlf       lines end with CRLF
        not_utf8   bytes that are not text; they became U+FFFD
        nul        NUL characters: a hole left by a crash, or a binary file
        long       a line of more than 1 MiB; what was over is left out
        cut_off    the last line has no end

    UserError if the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        self.oddities: dict[str, int] = {}
        self._num_lines = 0  # that lie before the present block

    def __iter__(self) -> Iterator[str]:
        self._num_lines = 0
        try:
            with open(self.path, "rb") as file:
                for block in self._blocks(self._utf8(file)):
                    lines = self._decode(block, self._num_lines + 1).split("\n")
                    lines.pop()  # what follows the last newline: nothing
                    yield from lines
                    self._num_lines += len(lines)
        except OSError as error:
            raise UserError(f"{self.path}: a file that can be read is required, got {error.strerror}") from None

    def _note(self, oddity: str, number: int) -> None:
        self.oddities.setdefault(oddity, number)

    def _utf8(self, file: BinaryIO) -> Iterator[bytes]:
        """The file in pieces of UTF-8 without a byte order mark."""
        first = file.read(BLOCK_BYTES)
        encoding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(first[:2])
        if encoding:
            self._note("utf16", 1)
            decoder = codecs.getincrementaldecoder(encoding)("replace")
            first = first[2:]
        elif first.startswith(codecs.BOM_UTF8):
            self._note("bom", 1)
            first = first[3:]
        while first:
            yield decoder.decode(first).encode("utf-8", "replace") if encoding else first
            first = file.read(BLOCK_BYTES)

    def _blocks(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The same in blocks of whole lines."""
        rest, skips = b"", False
        for piece in pieces:
            if skips:
                _, newline, piece = piece.partition(b"\n")
                if not newline:
                    continue
                yield rest + b"\n"
                rest, skips = b"", False
            head, newline, tail = piece.rpartition(b"\n")
            if newline:
                yield rest + head + newline
                rest = tail
            else:
                rest += tail
            if len(rest) > MAX_LINE_BYTES:
                self._note("long", self._num_lines + 1)
                rest, skips = rest[:MAX_LINE_BYTES], True
        if rest:
            self._note("cut_off", self._num_lines + 1)
            yield rest + b"\n"

    def _decode(self, block: bytes, first_number: int) -> str:
        if b"\0" in block:
            self._note("nul", first_number + block.count(b"\n", 0, block.index(b"\0")))
        if b"\r" in block:
            if b"\r\n" in block:
                self._note("crlf", first_number + block.count(b"\n", 0, block.index(b"\r\n")))
            block = block.replace(b"\r\n", b"\n")
        try:
            return block.decode()
        except UnicodeDecodeError as error:
            self._note("not_utf8", first_number + block.count(b"\n", 0, error.start))
            return block.decode("utf-8", "replace")
