"""What every submission tree has, whatever its benchmark: readable files, no links, and checksums that hold."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from airank_fast.record.files import sha256
from airank_fast.rules.findings import ERROR, NOTE, Finding, Rule
from airank_fast.walk import files, walk

MANIFEST, SUMS = "manifest.json", "SHA256SUMS"

_OURS = "airank_fast package"
READABLE = Rule(name="tree.readable", severity=ERROR, source=_OURS)
LINK = Rule(name="tree.link", severity=ERROR, source=_OURS)
SUM = Rule(name="tree.sum", severity=ERROR, source=_OURS)
LISTED = Rule(name="tree.listed", severity=ERROR, source=_OURS)

_READ = "a folder or file that can be read is required"


def check_files(root: Path, parts: Iterable[Iterator[Finding]]) -> Iterator[Finding]:
    """The findings about the files of a tree, then those of `parts`; an unreadable file is a finding, not an error."""
    unreadable = unreadable_below(root)
    for folder, reason in unreadable.items():
        yield READABLE.broken(str(folder), None, f"it cannot be read: {reason}", _READ)
    for part in (links(root), sums(root, unreadable), *parts):
        try:
            yield from part
        except OSError as error:
            place = Path(error.filename or root)
            if not any(place.is_relative_to(folder) for folder in unreadable):
                yield READABLE.broken(str(place), None, f"it cannot be read: {error.strerror}", _READ)


def folders(place: Path) -> list[Path]:
    """The folders in a place, without hidden and unreadable ones."""
    found = sorted(entry for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return [folder for folder in found if not _reason(folder)]


def _reason(folder: str | os.PathLike) -> str | None:
    """Why a folder cannot be read, such as "Permission denied"; None if it can."""
    try:
        os.scandir(folder).close()
        os.stat(os.path.join(folder, os.curdir))  # needs the permission to search it
    except OSError as error:
        return error.strerror
    return None


def _enter(entry: os.DirEntry) -> bool:
    return _reason(entry) is None


def unreadable_below(root: Path) -> dict[Path, str]:
    """The folders below the root that cannot be read, with the reasons."""
    found = (entry for entry in walk(root, _enter) if entry.is_dir(follow_symlinks=False))
    return {Path(entry.path): reason for entry in found if (reason := _reason(entry))}


def links(root: Path) -> Iterator[Finding]:
    """A finding for each symbolic link."""
    for entry in walk(root, _enter):
        if entry.is_symlink():
            yield LINK.broken(entry.path, None, f"a symbolic link to {os.readlink(entry)}", "a file is required")


def sums(root: Path, unreadable: Iterable[Path] = ()) -> Iterator[Finding]:
    """The checksums of all files outside unreadable folders. Trees of other programs may have none."""
    listing = root / SUMS
    if not listing.is_file():
        return
    listed = set()
    for number, line in enumerate(listing.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if match is None or Path(match[2]).is_absolute() or ".." in Path(match[2]).parts:
            yield SUM.broken(
                str(listing), number, f"{line[:80]!r}", "sha256, two blanks and a path inside are required"
            )
            continue
        listed.add(match[2])
        file = root / match[2]
        if any(file.is_relative_to(folder) for folder in unreadable):
            continue
        if file.is_symlink() or not file.is_file():
            yield SUM.broken(str(listing), number, f"no file {match[2]}", "every listed file is required")
        elif sha256(file) != match[1]:
            yield SUM.broken(str(file), None, "another content", f"the one with sha256 {match[1]} is required")
    for file in (path for path in files(root, _enter) if not path.is_symlink()):
        name = file.relative_to(root).as_posix()
        if name not in listed and name != SUMS:
            by_checker = file.name == "scaling.json" and "results" in file.parts
            found = "written by the official package checker" if by_checker else f"a file that {SUMS} does not list"
            yield LISTED.broken(
                str(file), None, found, "only packaged files are required", NOTE if by_checker else None
            )


def json_object(file: Path) -> dict | None:
    """The JSON object in a file; None if there is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def is_blank(value: object) -> bool:
    """Whether a field of a description says nothing."""
    return value is None or (isinstance(value, str) and value.strip().lower() in ("", "unknown", "tbd", "-"))
