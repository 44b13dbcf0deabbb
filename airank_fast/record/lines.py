"""Reads the lines of a log of any size and state in bounded memory, for every reader of other programs' logs."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from airank_fast.errors import UserError

BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 20
PACKED = (".gz", ".bz2", ".xz", ".zip")  # names of files that are unpacked as they are read
_UNPACK = {  # what a file begins with: how it is read
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_UNREADABLE = {
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x04\x22\x4d\x18": "an LZ4 file",
}
_READABLE = "a log as text, or packed as .gz, .bz2, .xz or .zip"
_HEAD_BYTES = 512


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to read bytes from, unpacked where it is a gzip, bzip2 or xz file, or a .zip of one file.

    UserError for what cannot be unpacked here: other formats, archives of several files, damaged ones. OSError as
    `open` raises it.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            yield _unpacked(file, path)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: must be {_READABLE}, got a damaged file ({error})") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise UserError(f"{path}: must be {_READABLE}, got a damaged file ({error})") from None  # bz2's own


def _unpacked(file: BinaryIO, path: str) -> BinaryIO:
    head = file.peek(_HEAD_BYTES)
    for magic, name in _UNREADABLE.items():
        if head.startswith(magic):
            raise UserError(f"{path}: must be {_READABLE}, got {name}")
    if head.startswith(b"PK\x03\x04") and path.lower().endswith(".zip"):  # other files are zip archives too
        archive = zipfile.ZipFile(file)
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) != 1 or members[0].flag_bits & 1:
            got = "an encrypted one" if len(members) == 1 else f"one of {len(members)} files"
            raise UserError(f"{path}: must be a .zip of one file, got {got}")
        return archive.open(members[0])
    unpack = next((unpack for magic, unpack in _UNPACK.items() if head.startswith(magic)), None)
    if unpack is not None:
        file = unpack(file)
        head = file.peek(_HEAD_BYTES)
    if head[257:262] == b"ustar":
        raise UserError(f"{path}: must be {_READABLE}, got a tar archive")
    return file


class Lines:
    """The lines of a file as str, without their ends; `enumerate(lines, 1)` numbers them.

    UTF-8 and, with a byte order mark, UTF-16 (what PowerShell's `>` writes); LF or CRLF; packed as `opened` unpacks
    it. At most some MiB of the file are held at a time. Once the lines were read, `oddities` has what was odd, with the
    number of the first line concerned:

        bom        a byte order mark
        utf16      UTF-16
        crlf       lines end with CRLF
        not_utf8   bytes that are not text; they became U+FFFD
        nul        NUL characters: a hole left by a crash, or a binary file
        long       a line of more than 1 MiB, whose rest is left out
        cut_off    the last line has no end

    UserError if the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        self.oddities: dict[str, int] = {}
        self._num_lines = 0  # before the present block

    def __iter__(self) -> Iterator[str]:
        self._num_lines = 0
        try:
            with opened(self.path) as file:
                for block in self._blocks(self._utf8(file)):
                    lines = self._decode(block, self._num_lines + 1).split("\n")
                    lines.pop()  # what follows the last newline: nothing
                    yield from lines
                    self._num_lines += len(lines)
        except OSError as error:
            raise UserError(f"{self.path}: must be a file that can be read, got {error.strerror}") from None

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
