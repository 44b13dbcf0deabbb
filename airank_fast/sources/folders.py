"""Folders of files in a prepared data set: complete or absent, with one entry each in the manifest."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tqdm import tqdm

from airank_fast.data.manifest import Manifest
from airank_fast.sources.workers import ordered_map


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
    paths = [*folder.iterdir()]
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}
    return entry(folder, sums, what) | {what: len(paths)}  # also folders, and links to nothing
