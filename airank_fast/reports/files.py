"""The files of a run with their sizes and SHA-256."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.walk import files

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileSum:
    """A file by its path inside the run directory."""

    path: str
    size_bytes: int
    sha256: str


def checksums(path: Path, leave_out: Path | None = None) -> list[FileSum]:
    """The sums of a log file, or of every file of a run directory but those under `leave_out`, by path.

    Links are left out: they point to files outside the run. UserError if a file cannot be read.
    """
    try:
        if not path.is_dir():
            return [FileSum(path.name, *_sum(path))]
        found = [
            FileSum(file.relative_to(path).as_posix(), *_sum(file))
            for file in files(path, lambda entry: leave_out is None or Path(entry.path).resolve() != leave_out)
            if not file.is_symlink() and not file.name.endswith((".tmp", ".reserve"))
        ]
    except OSError as error:
        raise UserError(f"{path}: must be files that can be read, got {error}") from None
    return sorted(found, key=lambda file: (file.path.count("/"), file.path))


def _sum(path: Path) -> tuple[int, str]:
    digest, size_bytes = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(_CHUNK_BYTES):
            digest.update(block)
            size_bytes += len(block)
    return size_bytes, digest.hexdigest()
