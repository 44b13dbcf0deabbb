"""Folders of files unpacked from tars, with an entry each in the manifest; a folder is complete or absent."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from airank_fast.data.manifest import Manifest
from airank_fast.errors import UserError
from airank_fast.sources.workers import ordered_map

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


@contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, to be renamed to it; deleted after an exception."""
    partial_folder = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    try:
        yield partial_folder
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


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


def entry(folder: Path, sums: dict[str, str], what: str) -> dict:
    """A folder's entry in the manifest: how many `what`, their bytes, one checksum of names and contents."""
    lines = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    return {
        what: len(sums),
        "bytes": sum((folder / name).stat().st_size for name in sums),
        "sha256": hashlib.sha256(os.fsencode(lines)).hexdigest(),
    }


def finish(partial_folder: Path, folder: Path, sums: dict[str, str], what: str) -> dict:
    """Rename a folder of `fresh`; returns its entry."""
    made = entry(partial_folder, sums, what)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial_folder, folder)
    return made


def has(manifest: Manifest, root: Path, name: str) -> bool:
    """Whether the folder is entered, and there."""
    return name in manifest.files and (root / name).is_dir()


def changed(manifest: Manifest, root: Path, names: list[str], what: str, num_workers: int) -> list[str]:
    """Problems of these folders, one line each, after reading all of their files."""
    problems = []
    found = ordered_map(partial(_found, root=root, what=what), names, num_workers)
    found = tqdm(found, total=len(names), unit="folder", desc="verify", disable=None)
    for name, there in zip(names, found, strict=True):
        listed = manifest.files[name]
        if there is None:
            problems.append(f"{name}: missing")
        elif there[what] != listed[what]:
            problems.append(f"{name}: must have {listed[what]} {what}, got {there[what]}")
        elif there != listed:
            problems.append(f"{name}: must have sha256 {listed['sha256']}, got another: a file was changed")
    return problems


def _found(name: str, root: Path, what: str) -> dict | None:
    folder = root / name
    if not folder.is_dir():
        return None
    return entry(folder, {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}, what)
