"""word2vec's two formats of word vectors, text and binary, which gensim, fastText's .vec and others share.

Both begin with a line `WORDS DIM`. In text a line is a word and its numbers, between spaces. In binary a word is
followed by a space, DIM little-endian float32 numbers and, as word2vec.c writes them, a newline; without it they are
read as well. Words are UTF-8; other bytes are kept, as Python's surrogateescape does it.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

import numpy as np

from airank_fast.errors import UserError, require

_HEADER = "a file of word vectors, whose first line is WORDS DIM"
_LONGEST = 1 << 20  # bytes of a word, or of a header


def is_binary(path: Path) -> bool:
    """Whether a name is that of a binary file: *.bin or *.bin.gz."""
    return ".bin" in path.suffixes[-2:]


def read(path: Path, *, binary: bool | None = None) -> tuple[list[str], np.ndarray]:
    """(words, vectors float32 [V, D]) of a file; of a name with .gz it is unpacked. binary: default by the name.

    UserError, with the number of the line or the vector, for a header of another form, a file that ends before its last
    vector or goes on behind it, and text that is not a number.
    """
    require(path.is_file(), str(path), _HEADER, "a directory" if path.is_dir() else "no file")
    binary = is_binary(path) if binary is None else binary
    try:
        with _opened(path, "rb") as file:
            num, dim = _sizes(file.readline(_LONGEST), path)
            least = num * (4 * dim + 1 if binary else 2 * dim)  # a vector of one-digit numbers, of an empty word
            whole = path.suffix == ".gz" or path.stat().st_size >= least
            require(whole, str(path), f"{num} vectors of {dim} numbers", f"{path.stat().st_size} bytes")
            return (_read_binary if binary else _read_text)(file, num, dim, path)
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: must be readable, got: {error}") from None


def _opened(path: Path, mode: str) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, mode) if path.suffix == ".gz" else open(path, mode))


def _sizes(line: bytes, path: Path) -> tuple[int, int]:
    numbers = [int(part) if part.isdigit() and len(part) < 12 else 0 for part in line.split()]
    require(len(numbers) == 2 and min(numbers) > 0, f"{path}, line 1", _HEADER, repr(line[:40])[1:])
    return numbers[0], numbers[1]


def _read_binary(file: IO[bytes], num: int, dim: int, path: Path) -> tuple[list[str], np.ndarray]:
    words, vectors, size = [], np.empty((num, dim), np.float32), 4 * dim
    buffer, at = b"", 0
    for row in range(num):
        while (end := buffer.find(b" ", at)) < 0 or len(buffer) < end + 1 + size:
            more = file.read(max(_LONGEST, size))
            require(more, str(path), f"{num} vectors of {dim} numbers", f"an end in vector {row + 1}")
            require(end >= 0 or len(buffer) - at <= _LONGEST, f"{path}, vector {row + 1}", "a word", "no space")
            buffer, at = buffer[at:] + more, 0
        words.append(_text(buffer[at:end].lstrip(b"\n")))
        at = end + 1 + size
        vectors[row] = np.frombuffer(buffer, "<f4", dim, end + 1)
    rest = buffer[at:] + file.read(_LONGEST)
    require(not rest.strip(b"\n"), str(path), f"{num} vectors of {dim} numbers", "more behind the last one")
    return words, vectors


def _read_text(file: IO[bytes], num: int, dim: int, path: Path) -> tuple[list[str], np.ndarray]:
    words, vectors = [], np.empty((num, dim), np.float32)
    for row, line in enumerate(file):
        where = f"{path}, line {row + 2}"
        if row == num:
            require(not line.strip(), where, f"the end, after {num} vectors", "more")
            continue
        parts = line.rstrip().rsplit(b" ", dim)
        require(len(parts) == dim + 1, where, f"a word and {dim} numbers", f"{len(parts)} columns")
        words.append(_text(parts[0]))
        try:
            vectors[row] = [float(part) for part in parts[1:]]
        except ValueError as error:
            raise UserError(f"{where}: must be a word and {dim} numbers, got {error}") from None
    require(len(words) == num, str(path), f"{num} vectors of {dim} numbers", f"{len(words)}")
    return words, vectors


def write(path: Path, words: Sequence[str], vectors: np.ndarray, *, binary: bool | None = None) -> None:
    """Write words and their vectors, [V, D]; in text with 9 digits, which give the same float32 when they are read.

    UserError for a word with a space or a newline, which the formats cannot hold, and for a path that cannot be
    written.
    """
    binary = is_binary(path) if binary is None else binary
    try:
        with _opened(path, "wb") as file:
            file.writelines(_written(words, vectors.astype("<f4"), binary))
    except OSError as error:
        raise UserError(f"{path}: must be a file that can be written, got: {error.strerror}") from None


def _written(words: Sequence[str], vectors: np.ndarray, binary: bool) -> Iterator[bytes]:
    num, dim = vectors.shape
    yield f"{num} {dim}\n".encode()
    for word, vector in zip(words, vectors, strict=True):
        require(not {" ", "\n"} & set(word), "word", "without space and newline", repr(word))
        numbers = vector.tobytes() if binary else " ".join(f"{number:.9g}" for number in vector.tolist()).encode()
        yield word.encode("utf-8", "surrogateescape") + b" " + numbers + b"\n"


def _text(word: bytes) -> str:
    return word.decode("utf-8", "surrogateescape")
