"""Folders of pictures in a prepared data set: each is written as a whole, with one entry in the manifest."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
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


def entry(folder: Path, pictures: dict[str, str]) -> dict:
    """Of a folder's files, {name: sha256}: counts, and one checksum of names and contents."""
    lines = "".join(f"{pictures[name]}  {name}\n" for name in sorted(pictures))
    return {
        "pictures": len(pictures),
        "bytes": sum((folder / name).stat().st_size for name in pictures),
        "sha256": hashlib.sha256(os.fsencode(lines)).hexdigest(),
    }


def check_folders(manifest: Manifest, root: Path, names: Sequence[str], num_workers: int) -> list[str]:
    """What is wrong with these folders, one line each, after reading all of their files."""
    problems = []
    found = ordered_map(partial(_found, root=root), names, num_workers)
    found = tqdm(found, total=len(names), unit="folder", desc="verify", disable=None)
    for name, there in zip(names, found, strict=True):
        listed = manifest.files[name]
        if there is None:
            problems.append(f"{name}: missing")
        elif there["pictures"] != listed["pictures"]:
            problems.append(f"{name}: must have {listed['pictures']} pictures, got {there['pictures']}")
        elif there != listed:
            problems.append(f"{name}: must have sha256 {listed['sha256']}, got another: a picture was changed")
    return problems + manifest.copies(names, "sha256", "pictures")


def _found(name: str, root: Path) -> dict | None:
    folder = root / name
    if not folder.is_dir():
        return None
    pictures = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    return entry(folder, pictures)
