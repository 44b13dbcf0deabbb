"""Walks, makes and removes folders at any depth, for every command.

`Path.rglob`, `Path.mkdir(parents=True)`, `shutil.rmtree` and, before Python 3.12, `os.walk` recurse, and fail at a
thousand nested folders; the walks among them also skip a folder that cannot be read, without an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from airank_fast.errors import UserError


def entries(folder: str | os.PathLike) -> list[os.DirEntry]:
    """The entries of a folder, sorted by name. UserError if it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        path = os.fspath(folder)
        shown = path if len(path) <= 200 else f"{path[:100]}...{path[-100:]}"
        raise UserError(f"{shown}: must be a directory that can be read, got {error.strerror}") from None


def walk(folder: str | os.PathLike, enter: Callable[[os.DirEntry], bool] | None = None) -> Iterator[os.DirEntry]:
    """All entries below a folder, in the order of the paths' parts; a folder comes before its content.

    Symbolic links, and folders for which `enter` is False, are yielded and not entered. UserError for a folder that
    cannot be read.
    """
    waiting = entries(folder)[::-1]
    while waiting:
        entry = waiting.pop()
        yield entry
        if entry.is_dir(follow_symlinks=False) and (enter is None or enter(entry)):
            waiting += entries(entry.path)[::-1]


def files(folder: str | os.PathLike, enter: Callable[[os.DirEntry], bool] | None = None) -> Iterator[Path]:
    """The files below a folder, and links to files, in the order of `walk`."""
    return (Path(entry.path) for entry in walk(folder, enter) if entry.is_file())


def make_folders(folder: Path) -> None:
    """Make a folder and the missing ones above it. OSError where one cannot be made."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)


def remove(folder: Path) -> None:
    """Remove a folder with its content; links are removed, not followed. OSError or UserError where that fails."""
    for entry in reversed(list(walk(folder))):
        (os.rmdir if entry.is_dir(follow_symlinks=False) else os.unlink)(entry.path)
    os.rmdir(folder)
