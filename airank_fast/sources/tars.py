"""Reads tars, and writes their files with checksums; a broken one is named."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from airank_fast.errors import UserError

BROKEN = (tarfile.TarError, OSError, EOFError, zlib.error)  # what reading a broken tar raises


def open_tar(path: Path, option: str) -> tarfile.TarFile:
    """The tar, plain or compressed; UserError for another file."""
    try:
        return tarfile.open(path)
    except BROKEN as error:
        raise UserError(f"{option}: must be a tar file, got {path} ({reason(error)})") from None


def reason(error: Exception) -> str:
    """The first line of tarfile's message; further lines list the error of each kind of compression."""
    return str(error).partition("\n")[0].rstrip(":")


def members(tar: tarfile.TarFile, path: Path, option: str) -> Iterator[tarfile.TarInfo]:
    """Its members; UserError for a tar that breaks off."""
    try:
        yield from tar
    except BROKEN as error:
        raise UserError(f"{option}: must be a whole tar file, {path} is truncated ({error})") from None


def write(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    folder: Path,
    sums: dict[str, str],
    path: Path,
    *,
    may_be_empty: bool = False,
) -> None:
    """Write a file of the tar at `path` into the folder, and its checksum into `sums`, by name.

    UserError for an empty file, unless it may be; one that breaks off; and a name that comes twice.
    """
    name = PurePosixPath(member.name).name  # a path in the archive may lead out of the folder
    try:
        file = tar.extractfile(member)
        content = file.read() if file else b""
    except BROKEN as error:
        raise UserError(f"input: must be a whole tar file, {path} is truncated in {member.name} ({error})") from None
    if len(content) != member.size or not (content or may_be_empty):
        raise UserError(f"input: must have files with content, {member.name} in {path} has {len(content)} bytes")
    if name in sums:
        raise UserError(f"input: must have different names, {path} has {name} twice")
    (folder / name).write_bytes(content)
    sums[name] = hashlib.sha256(content).hexdigest()
