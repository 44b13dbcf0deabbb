"""Files that stay whole on a full disk; the event log and the logs made from it are written to them."""

import hashlib
import os
from collections import deque
from contextlib import suppress
from pathlib import Path

RESERVE_BYTES = 256 * 1024


class LineFile:
    """A text file that only ever holds whole lines, also when the disk is full.

    One write system call a line, no fsync. A line that does not fit is cut off again and kept in
    `waiting`; the next write, or `close`, tries it again first.
    """

    def __init__(self, path: str | os.PathLike, *, truncate: bool):
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        self.path = os.fspath(path)
        self.waiting: deque[bytes] = deque()
        self._fd = os.open(self.path, flags | (os.O_TRUNC if truncate else 0), 0o644)

    def write(self, line: str) -> None:
        """Append a line. OSError (and the line waits) when the disk does not take it."""
        self.waiting.append(encoded(line) + b"\n")
        self.retry()

    def retry(self) -> None:
        """Write what waits, in order; OSError as soon as something does not fit."""
        while self.waiting:
            data = self.waiting[0]
            num_written = 0
            try:
                while num_written < len(data):
                    num_written += os.write(self._fd, data[num_written:])
            except OSError as error:
                if num_written:
                    os.ftruncate(self._fd, os.fstat(self._fd).st_size - num_written)
                error.filename = error.filename or self.path
                raise
            self.waiting.popleft()

    def truncate(self, size_bytes: int) -> None:
        os.ftruncate(self._fd, size_bytes)

    def close(self) -> None:
        """Try once more what waits, then close; never raises for a full disk. Twice is harmless."""
        if self._fd < 0:
            return
        with suppress(OSError):
            self.retry()
            os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1


class Reserve:
    """Room on the disk that is given back when it is needed."""

    def __init__(self, path: str):
        self._path: str | None = path
        try:
            with open(path, "wb") as file:
                file.write(os.urandom(RESERVE_BYTES))  # zeros might be compressed away
        except OSError:
            self.release()

    def release(self) -> bool:
        """Delete the file; True if it was there."""
        if self._path is None:
            return False
        path, self._path = self._path, None
        try:
            os.remove(path)
        except OSError:
            return False
        return True


def sha256(file: Path) -> str:
    """The checksum of a file's content, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def encoded(text: str) -> bytes:
    """UTF-8. What is no character, as in the name of a file in another encoding, becomes an escape as in JSON."""
    return text.encode(errors="backslashreplace")


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all; OSError if it cannot be written."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(encoded(text))
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
