"""Reads published zips, and writes their files to folders with checksums; a broken one is named."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from airank_fast.data.manifest import Manifest
from airank_fast.errors import UserError, require
from airank_fast.sources import folders
from airank_fast.sources.workers import ordered_map

_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)


class Part(NamedTuple):
    """Files of a zip, `option` on the command line, that go to one folder of a data set."""

    option: str
    path: Path
    folder: str
    members: list[str]


def names(option: str, path: Path) -> list[str]:
    """The names in a zip. UserError for another file."""
    require(path.is_file(), option, "a zip file", f"{path}, which is no file")
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except _BROKEN as error:
        raise UserError(f"{option}: must be a whole zip file, got {path} ({error})") from None


def unpack_all(parts: list[Part], manifest: Manifest, root: Path, num_workers: int, *, what: str, unit: str) -> None:
    """Unpack the parts that the manifest does not list yet, and list each as it is done. unit: what a part is called.

    See `unpack`.
    """
    left = [part for part in parts if not folders.has(manifest, root, part.folder)]
    done = ordered_map(partial(unpack, root=root, what=what), left, num_workers)
    for part, listed in zip(left, tqdm(done, total=len(left), unit=unit, disable=None), strict=True):
        manifest.files[part.folder] = listed
        manifest.save(root)


def unpack(part: Part, root: Path, what: str) -> dict:
    """Write a part's files to its folder, complete or not at all; returns its entry in the manifest.

    what: the files' name in the entry, under which they are counted. UserError names a file whose checksum differs.
    """
    folder, written = root / part.folder, {}
    with folders.fresh(folder) as partial_folder:
        with zipfile.ZipFile(part.path) as archive:
            for member in part.members:
                name = member.rpartition("/")[2]
                try:
                    content = archive.read(member)  # compares the checksum
                except _BROKEN as error:
                    damage = f"{part.path} is damaged in {member} ({error})"
                    raise UserError(f"{part.option}: must be a whole zip file, {damage}") from None
                (partial_folder / name).write_bytes(content)
                written[name] = hashlib.sha256(content).hexdigest()
        return folders.finish(partial_folder, folder, written, what)
